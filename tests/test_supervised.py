"""Policies that are told which blocks gain most: the loss in numpy, many devices against one, a step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from segblocks_jax.adaptive.estimators import regret_loss
from segblocks_jax.data import NORMALIZATION, normalize
from segblocks_jax.systems.segblocks.resolution_gain import resolution_gain
from segblocks_jax.training.sharding import AXIS

SHAPE = (4, 2, 3)


@pytest.fixture
def blocks(rng):
    """Logits, gains of which some are negative, and which are known."""
    logits, gain = jnp.asarray(rng.standard_normal((2, *SHAPE)), jnp.float32)
    return logits, gain, jnp.asarray(rng.random(SHAPE) < 0.7)


def by_loops(logits, gain, known, target):
    """The formula of docs/policies.md, a block at a time, in float64."""
    logits, gain, known = (np.asarray(x) for x in (logits, gain, known))
    logits, gain = logits.astype(np.float64), gain.astype(np.float64)
    gains = sorted(gain[known])
    place = (1 - target) * (len(gains) - 1)
    low = int(np.floor(place))
    high = min(low + 1, len(gains) - 1)
    bound = gains[low] + (place - low) * (gains[high] - gains[low])
    blocks = list(np.ndindex(gain.shape))
    mean_cost = sum(abs(gain[b] - bound) for b in blocks if known[b]) / len(blocks)
    total = 0.0
    for b in blocks:
        if known[b]:
            sign = 1 if gain[b] > bound else -1
            total += abs(gain[b] - bound) / mean_cost * np.log1p(np.exp(-sign * logits[b]))
    return total / len(blocks)


@pytest.mark.parametrize("target", [0.0, 0.2, 0.5, 1.0])
def test_the_loss_is_that_of_the_formula(blocks, target):
    got = regret_loss(*blocks, target)
    np.testing.assert_allclose(got, by_loops(*blocks, target), rtol=1e-5)


def test_descent_chooses_the_target_share_of_largest_gains(blocks):
    logits, gain, known = blocks
    gain = jnp.where(known, gain, 100.0)  # What isn't known plays no part.
    step = jax.jit(lambda x: x - 10 * jax.grad(regret_loss)(x, gain, known, 0.4))
    for _ in range(200):
        logits = step(logits)
    chosen = np.asarray(logits[known]) > 0
    gains = np.asarray(gain[known])
    assert chosen.sum() == round(0.4 * len(gains))
    assert gains[chosen].min() > gains[~chosen].max()


@pytest.mark.parametrize("gain", [np.nan, 0.3])
def test_nothing_to_learn_gives_no_gradient(blocks, gain):
    """No gain was measured, or all are alike."""
    same = jnp.full(SHAPE, gain)
    value, gradient = jax.value_and_grad(regret_loss)(blocks[0], same, jnp.isfinite(same), 0.4)
    assert value == 0
    assert not np.any(gradient)


def test_many_devices_learn_what_one_does(blocks):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def loss(logits, gain, known):
        return regret_loss(logits, gain, known, 0.4, "data")[None]

    sharded = jax.shard_map(
        loss, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False
    )
    parts = sharded(*blocks)
    np.testing.assert_allclose(parts.mean(), regret_loss(*blocks, 0.4), rtol=1e-5)


@pytest.mark.slow
def test_a_step_tells_the_policy_what_blocks_gain_in_evaluation():
    settings = tiny.config(policy={"learning": "supervised", "gain_every": 2})
    step, state = tiny.trainer(settings, Mesh(np.array(jax.devices()[:1]), (AXIS,)))
    batch = tiny.batch()

    @nnx.jit
    def gain(system, image, label):
        return resolution_gain(system, image, label, settings)

    for number in range(2):
        decision, _ = step.decide(state, batch)
        if number == 0:
            system = step._system(state.params, state.stats, training=False)
            image = normalize(batch["image"], *NORMALIZATION["street_scenes"])
            expected = gain(system, image, jnp.asarray(batch["label"]))
            np.testing.assert_allclose(decision.gain, expected, atol=1e-4)
            loss = 2 * by_loops(decision.scores, decision.gain, np.isfinite(expected), 0.5)
        else:
            assert np.isnan(decision.gain).all()
            loss = 0.0
        state, metrics = step(state, batch)
        np.testing.assert_allclose(metrics["loss_policy"], loss, rtol=1e-3)
