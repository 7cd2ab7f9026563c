"""Losses against numpy loops, the reference's numbers, and finite differences."""

import inspect
import pathlib

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
import scipy.special

from segblocks_jax.tasks.segmentation import losses


def resize_loop(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear interpolation with half-pixel centers and clamped edges, a pixel at a time."""
    n, h, w, k = logits.shape
    out = np.empty((n, *size, k))
    for i in range(size[0]):
        for j in range(size[1]):
            y = np.clip((i + 0.5) * h / size[0] - 0.5, 0, h - 1)
            x = np.clip((j + 0.5) * w / size[1] - 0.5, 0, w - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
            top = logits[:, y0, x0] * (1 - (x - x0)) + logits[:, y0, x1] * (x - x0)
            bottom = logits[:, y1, x0] * (1 - (x - x0)) + logits[:, y1, x1] * (x - x0)
            out[:, i, j] = top * (1 - (y - y0)) + bottom * (y - y0)
    return out


@pytest.fixture(scope="module")
def golden(shared: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(shared / "golden" / "loss.npz") as file:
        return dict(file)


def golden_inputs(golden: dict[str, np.ndarray], case: str) -> tuple[jax.Array, jax.Array]:
    logits = jnp.asarray(golden[f"{case}/logits"].transpose(0, 2, 3, 1))
    return logits, jnp.asarray(golden[f"{case}/labels"])


@pytest.mark.parametrize("size", [(12, 20), (7, 11), (3, 5), (24, 7)])
def test_resize_is_bilinear_with_half_pixel_centers(size, rng):
    logits = rng.standard_normal((2, 3, 5, 4)).astype(np.float32)
    resized = losses.resize_logits(jnp.asarray(logits), size)
    np.testing.assert_allclose(resized, resize_loop(logits, size), atol=2e-6)


@pytest.mark.parametrize("size", [(12, 20), (7, 11), (2, 1), (3, 9)])
@pytest.mark.parametrize("source", [(3, 5), (1, 4)])
def test_resize_keeps_the_corners_where_asked(size, source, rng):
    logits = rng.standard_normal((2, *source, 4)).astype(np.float32)
    rows, columns = (
        np.linspace(0, before - 1, after) if after > 1 else np.zeros(1)
        for before, after in zip(source, size, strict=True)
    )
    between = np.stack(
        [
            [np.interp(rows, range(source[0]), y) for y in x.T]
            for x in logits.transpose(0, 3, 1, 2).reshape(-1, *source)
        ]
    )
    between = np.stack([[np.interp(columns, range(source[1]), y) for y in x.T] for x in between])
    expected = between.reshape(2, 4, *size).transpose(0, 2, 3, 1)
    resized = losses.resize_logits(jnp.asarray(logits), size, align_corners=True)
    np.testing.assert_allclose(resized, expected, atol=2e-6)


def test_shrinking_logits_does_not_antialias(rng):
    logits = rng.standard_normal((1, 12, 12, 2)).astype(np.float32)
    resized = losses.resize_logits(jnp.asarray(logits), (4, 4))
    np.testing.assert_allclose(resized, resize_loop(logits, (4, 4)), atol=2e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_cross_entropy_map_against_log_softmax(dtype, rng):
    logits = jnp.asarray(rng.standard_normal((2, 3, 5, 4)) * 3, dtype)
    labels = rng.integers(0, 4, (2, 6, 10)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.3] = 255
    loss, valid = losses.cross_entropy_map(logits, jnp.asarray(labels))
    log_p = scipy.special.log_softmax(
        resize_loop(np.asarray(logits, np.float64), labels.shape[1:]), axis=-1
    )
    expected = np.zeros(labels.shape)
    for index in np.ndindex(labels.shape):
        if labels[index] != 255:
            expected[index] = -log_p[(*index, labels[index])]
    assert loss.dtype == jnp.float32
    np.testing.assert_array_equal(valid, labels != 255)
    np.testing.assert_allclose(loss, expected, atol=5e-6)


def test_huge_logits_stay_finite():
    logits = jnp.asarray([[[[1e4, -1e4]]]], jnp.float32)
    labels = jnp.ones((1, 1, 1), jnp.uint8)
    value, gradient = jax.value_and_grad(
        lambda x: losses.task_loss(*losses.cross_entropy_map(x, labels))
    )(logits)
    assert value == 2e4
    np.testing.assert_array_equal(gradient, [[[[1.0, -1.0]]]])


@pytest.mark.parametrize("case", ["random", "confident"])
def test_cross_entropy_matches_reference(case, golden):
    logits, labels = golden_inputs(golden, case)
    loss_map, _ = losses.cross_entropy_map(logits, labels)
    np.testing.assert_allclose(loss_map, golden[f"{case}/loss_per_pixel"], atol=1e-6, rtol=1e-6)

    def loss(x):
        return losses.task_loss(*losses.cross_entropy_map(x, labels), ignored="counted")

    value, gradient = jax.jit(jax.value_and_grad(loss))(logits)
    assert value == pytest.approx(golden[f"{case}/ce_loss"].item(), rel=1e-6)
    expected = golden[f"{case}/ce_grad_logits"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(gradient, expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("case", ["random", "confident"])
@pytest.mark.parametrize(("k", "threshold"), [(4096, 0.3), (64, 1.5), (512, 1.5)])
def test_bootstrapped_matches_reference(case, k, threshold, golden):
    logits, labels = golden_inputs(golden, case)

    def loss(x):
        loss_map, _ = losses.cross_entropy_map(x, labels)
        return losses.bootstrapped_loss(loss_map, k=k, threshold=threshold)

    value, gradient = jax.jit(jax.value_and_grad(loss))(logits)
    name = f"{case}/bootstrap" if k == 4096 else f"{case}/bootstrap_k{k}_t{threshold}"
    assert value == pytest.approx(golden[f"{name}_loss"].item(), rel=1e-6)
    if k == 4096:
        expected = golden[f"{name}_grad_logits"].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(gradient, expected, atol=1e-6 * np.abs(expected).max())
    else:
        norm = golden[f"{name}_grad_logits_norm"].item()
        assert np.linalg.norm(gradient) == pytest.approx(norm, rel=2e-6)


def bootstrap_loop(
    loss_map: np.ndarray, valid: np.ndarray | None, k: int, threshold: float
) -> float:
    means = []
    for image in range(len(loss_map)):
        values = loss_map[image] if valid is None else loss_map[image][valid[image]]
        ordered = np.sort(values.reshape(-1).astype(np.float64))[::-1]
        if len(ordered) > k and ordered[k] > threshold:
            means.append(ordered[ordered > threshold].mean())
        else:
            means.append(ordered[:k].mean() if len(ordered) else 0.0)
    return float(np.mean(means))


@pytest.mark.parametrize("k", [1, 5, 20, 34, 35, 100])
@pytest.mark.parametrize("threshold", [0.0, 0.7, 5.0])
@pytest.mark.parametrize("masked", [False, True])
def test_bootstrapped_against_sorting(k, threshold, masked, rng):
    valid = rng.random((3, 5, 7)) < 0.6
    valid[2] = False
    loss_map = np.where(valid, rng.random(valid.shape) * 2 + 0.01, 0.0).astype(np.float32)
    mask = valid if masked else None
    got = losses.bootstrapped_loss(
        jnp.asarray(loss_map), None if mask is None else jnp.asarray(mask), k, threshold
    )
    assert got == pytest.approx(bootstrap_loop(loss_map, mask, k, threshold), rel=1e-6)


@pytest.mark.parametrize("threshold", [0.5, 5.0])
def test_bootstrapped_gradient_goes_to_the_hard_pixels_only(threshold):
    values = np.random.default_rng(3).permutation(24).reshape(1, 4, 6) / 24
    loss_map = jnp.asarray(values, jnp.float32)
    gradient = jax.grad(lambda x: losses.bootstrapped_loss(x, k=6, threshold=threshold))(loss_map)
    hard = values > 0.5 if threshold == 0.5 else values >= 18 / 24
    np.testing.assert_allclose(gradient, hard / hard.sum(), rtol=1e-6)


def test_task_loss_divides_by_valid_or_by_all_pixels():
    loss_map = jnp.asarray([[[1.0, 2.0], [0.0, 3.0]]])
    valid = jnp.asarray([[[True, True], [False, True]]])
    assert losses.task_loss(loss_map, valid) == 2.0
    assert losses.task_loss(loss_map, valid, ignored="counted") == 1.5


@pytest.mark.parametrize("ignored", ["excluded", "counted"])
def test_a_batch_without_valid_pixels_has_zero_loss_and_gradient(ignored):
    labels = jnp.full((1, 4, 4), 255, jnp.uint8)
    value, gradient = jax.value_and_grad(
        lambda x: losses.task_loss(*losses.cross_entropy_map(x, labels), ignored=ignored)
    )(jnp.ones((1, 2, 2, 3)))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("ignored", ["excluded", "counted"])
def test_block_mean_against_loop(ignored, rng):
    valid = rng.random((2, 6, 15)) < 0.5
    valid[1, :3, 5:10] = False
    loss_map = rng.random(valid.shape).astype(np.float32)
    mean, has_mean = losses.block_mean(
        jnp.asarray(loss_map), jnp.asarray(valid), (2, 3), ignored=ignored
    )
    for n, i, j in np.ndindex(2, 2, 3):
        window = (n, slice(3 * i, 3 * i + 3), slice(5 * j, 5 * j + 5))
        inside = loss_map[window][valid[window]]
        size = 15 if ignored == "counted" else max(len(inside), 1)
        assert mean[n, i, j] == pytest.approx(inside.sum() / size, rel=1e-6)
        assert has_mean[n, i, j] == (ignored == "counted" or len(inside) > 0)
    assert not np.isnan(mean).any()
    assert bool(has_mean[1, 0, 1]) == (ignored == "counted")


def test_block_means_average_to_the_task_loss(rng):
    loss_map = jnp.asarray(rng.random((2, 8, 12)), jnp.float32)
    valid = jnp.ones(loss_map.shape, bool)
    mean, _ = losses.block_mean(loss_map, valid, (2, 3))
    np.testing.assert_allclose(mean.mean(), losses.task_loss(loss_map, valid), rtol=1e-6)


def test_gradient_of_block_mean_against_finite_differences(rng):
    loss_map = jnp.asarray(rng.random((1, 4, 6)), jnp.float32)
    valid = jnp.asarray(rng.random((1, 4, 6)) < 0.7)
    weights = jnp.asarray(rng.random((1, 2, 3)), jnp.float32)
    jax.test_util.check_grads(
        lambda x: jnp.sum(losses.block_mean(jnp.asarray(x), valid, (2, 3))[0] * weights),
        (loss_map,),
        order=1,
        modes=["rev"],
        eps=1.0,  # The function is linear: a long step costs nothing and drowns the rounding.
    )


def test_errors_say_what_to_do():
    ones = jnp.ones((1, 10, 12))
    valid = jnp.ones((1, 10, 12), bool)
    with pytest.raises(ValueError, match=r"10x12 pixels does not divide into a grid of 3x3.*pad"):
        losses.block_mean(ones, valid, (3, 3))
    with pytest.raises(ValueError, match="k is 0, expected at least 1"):
        losses.bootstrapped_loss(ones, k=0)
    with pytest.raises(ValueError, match="threshold is -1"):
        losses.bootstrapped_loss(ones, threshold=-1.0)
    unchecked = inspect.unwrap(losses.task_loss)
    with pytest.raises(ValueError, match="ignored is 'mean', expected \"excluded\""):
        unchecked(ones, valid, ignored="mean")
    unchecked = inspect.unwrap(losses.cross_entropy_map)
    with pytest.raises(ValueError, match=r"logits hold 2 images .* labels 1"):
        unchecked(jnp.ones((2, 2, 2, 3)), jnp.zeros((1, 4, 4), jnp.uint8))
