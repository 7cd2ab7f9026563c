"""Losses of several heads, against plain numpy; the authors' numbers are in `test_ddrnet_pidnet.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from segblocks_jax.errors import InputError
from segblocks_jax.tasks.segmentation.head_losses import (
    boundary_loss,
    boundary_map,
    ddrnet_loss,
    ohem_loss,
    pidnet_loss,
)


def ohem_oracle(loss, valid, threshold, keep, weights):
    losses, weights = loss[valid], weights[valid]
    if not losses.size:
        return 0.0
    q = np.exp(-losses)
    limit = max(np.sort(q)[min(keep, q.size - 1)], threshold)
    hard = q < limit
    return (weights * losses)[hard].mean() if hard.any() else 0.0


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("keep", [0, 5, 60, 10_000])
@pytest.mark.parametrize("labeled", [0.0, 0.02, 0.7])
def test_ohem(threshold, keep, labeled, rng):
    loss = rng.exponential(1.0, (2, 8, 9)).astype(np.float32)
    valid = rng.random(loss.shape) < labeled
    weights = rng.random(loss.shape).astype(np.float32)
    got = ohem_loss(
        jnp.asarray(np.where(valid, loss, 0)),
        jnp.asarray(valid),
        threshold=threshold,
        keep=keep,
        weights=jnp.asarray(weights),
    )
    expected = ohem_oracle(loss, valid, threshold, keep, weights)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_ohem_passes_gradients_to_hard_pixels_alone():
    loss = jnp.asarray([[[0.01, 2.0, 3.0, 0.02]]])
    valid = jnp.ones(loss.shape, bool)
    gradient = jax.grad(lambda x: ohem_loss(x, valid, threshold=0.5, keep=0))(loss)
    np.testing.assert_allclose(gradient, [[[0, 0.5, 0.5, 0]]])


@pytest.mark.parametrize(("threshold", "keep"), [(1.5, 1), (-0.1, 1), (0.5, -1)])
def test_ohem_refuses(threshold, keep):
    zeros = jnp.zeros((1, 2, 2))
    with pytest.raises(InputError, match=f"threshold is {threshold}, keep {keep}; expected a prob"):
        ohem_loss(zeros, zeros == 0, threshold=threshold, keep=keep)


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_boundary(share, rng):
    logits = (30 * rng.standard_normal((2, 5, 7))).astype(np.float32)
    edge = rng.random(logits.shape) < share
    probability = scipy.special.log_expit(np.where(edge, logits, -logits).astype(np.float64))
    weights = np.where(edge, 1 - edge.mean(), edge.mean())
    got = boundary_loss(jnp.asarray(logits), jnp.asarray(edge.astype(np.uint8)))
    np.testing.assert_allclose(got, (-weights * probability).mean(), rtol=1e-5, atol=1e-7)


def pidnet_heads(rng, classes=4):
    sizes = {"p": classes, "main": classes, "d": 1}
    return {
        k: jnp.asarray(rng.standard_normal((2, 3, 4, c)), jnp.float32) for k, c in sizes.items()
    }


def test_parts_add_up_and_weights_count(rng):
    heads = pidnet_heads(rng)
    labels = jnp.asarray(rng.integers(0, 4, (2, 24, 32)), jnp.uint8).at[0, :9].set(255)
    edges = (labels == 1).astype(jnp.uint8)
    loss = pidnet_loss(heads, labels, edges, keep=100)
    np.testing.assert_allclose(loss.total, loss.semantic + loss.boundary + loss.at_boundary)
    twice = pidnet_loss(heads, labels, edges, keep=100, class_weights=(2.0, 2.0, 2.0, 2.0))
    np.testing.assert_allclose(twice.semantic, 2 * loss.semantic, rtol=1e-6)
    np.testing.assert_allclose(twice.boundary, loss.boundary)
    nothing = pidnet_loss(heads, jnp.full_like(labels, 255), edges, keep=100)
    assert (nothing.semantic, nothing.at_boundary) == (0, 0)


def test_what_does_not_fit_is_named(rng):
    heads = pidnet_heads(rng)
    labels = jnp.zeros((2, 24, 32), jnp.uint8)
    with pytest.raises(InputError, match="got the heads p, main, d, expected main, extra; build"):
        ddrnet_loss(heads, labels)
    with pytest.raises(InputError, match="got the heads main, expected p, main, d; build the net"):
        pidnet_loss({"main": heads["main"]}, labels, labels)
    with pytest.raises(InputError, match="3 class_weights for 4 classes"):
        pidnet_loss(heads, labels, labels, class_weights=np.ones(3))


@pytest.mark.parametrize("shape", [(2, 21, 17), (1, 12, 30), (1, 5, 40)])
def test_boundaries_are_widened_edges(shape, rng):
    labels = rng.integers(0, 2, shape).astype(np.uint8)
    labels[:, 8:, :9] = 255
    _, h, w = shape
    expected = np.zeros(shape, bool)
    for i, y, x in np.ndindex(shape):
        inside = 6 <= y < h - 6 and 6 <= x < w - 6
        before = (labels[i, y - 1, x], labels[i, y, x - 1])
        if inside and before != (labels[i, y, x], labels[i, y, x]):
            expected[i, y - 1 : y + 3, x - 1 : x + 3] = True
    np.testing.assert_array_equal(boundary_map(jnp.asarray(labels)), expected)


def test_labels_that_are_alike_have_no_boundary():
    assert not boundary_map(jnp.full((1, 20, 20), 3, jnp.uint8)).any()
