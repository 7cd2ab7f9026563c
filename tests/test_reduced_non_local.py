"""Reduced non-local attention and channel dropout: against full attention, the SVD, loops, finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

import segblocks_jax as sb
from segblocks_jax import nn
from segblocks_jax.nn.scope import counting
from segblocks_jax.systems.lrnnet import reduced_non_local


def layer(in_features: int = 6, channels: int = 4, **options) -> reduced_non_local.ReducedNonLocal:
    """A layer in evaluation mode, with norms that are not the initial ones."""
    built = reduced_non_local.ReducedNonLocal(
        in_features, channels=channels, **options, semantics=sb.BlockOptions(), rngs=nnx.Rngs(0)
    )
    for norm in (built.reduce_norm, built.out_norm):
        values = np.random.default_rng(1).uniform(0.5, 1.5, (4, norm.scale.shape[0]))
        norm.scale[...], norm.bias[...], norm.mean[...], norm.var[...] = values.astype(np.float32)
    built.eval()
    return built


@nnx.jit
def run(layer: reduced_non_local.ReducedNonLocal, image: jax.Array | np.ndarray) -> jax.Array:
    return layer(image)


def normalized(norm: nn.BatchNorm, x: np.ndarray) -> np.ndarray:
    scale, bias, mean, var = (
        np.asarray(v[...], np.float64) for v in (norm.scale, norm.bias, norm.mean, norm.var)
    )
    return (x - mean) / np.sqrt(var + 1e-5) * scale + bias


def full_attention(layer: reduced_non_local.ReducedNonLocal, image: np.ndarray) -> np.ndarray:
    """From every position to every position, whose features have length 1 or are all 0, in float64."""
    x = image.astype(np.float64).reshape(image.shape[0], -1, image.shape[-1])
    reduce, query, key, value, out = (
        np.asarray(conv.kernel[...], np.float64)[0, 0]
        for conv in (layer.reduce, layer.query, layer.key, layer.value, layer.out)
    )
    f = np.maximum(normalized(layer.reduce_norm, x @ reduce), 0)
    length = np.linalg.norm(f, axis=-1, keepdims=True)
    f = np.divide(f, length, out=np.zeros_like(f), where=length > 0)
    scores = (x @ query) @ (f @ key).swapaxes(1, 2)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    attended = weights / weights.sum(-1, keepdims=True) @ (f @ value)
    return normalized(layer.out_norm, attended @ out).reshape(image.shape)


@pytest.mark.parametrize("regions", [(5, 7), (8, 8)])
def test_one_position_a_region_is_full_attention(regions, rng: np.random.Generator) -> None:
    image = rng.standard_normal((2, 5, 7, 6)).astype(np.float32)
    net = layer(regions=regions)
    expected = full_attention(net, image)
    assert expected.std((1, 2)).min() > 1e-2
    np.testing.assert_allclose(run(net, image), expected, atol=1e-5)


def test_fewer_regions_are_not_full_attention(rng: np.random.Generator) -> None:
    image = rng.standard_normal((1, 5, 7, 6)).astype(np.float32)
    net = layer(regions=(2, 2))
    assert np.abs(run(net, image) - full_attention(net, image)).max() > 1e-2


# The power method


def singular_vectors(image: np.ndarray, tall: int, wide: int) -> np.ndarray:
    """Dominant left singular vectors of (c, positions), region by region, with a positive sum."""
    n, height, width, channels = image.shape
    vectors = []
    for i, y, x in np.ndindex(n, -(-height // tall), -(-width // wide)):
        region = image[i, y * tall : (y + 1) * tall, x * wide : (x + 1) * wide]
        u, _, _ = jnp.linalg.svd(jnp.asarray(region.reshape(-1, channels).T), full_matrices=False)
        vectors.append(np.asarray(u[:, 0] * jnp.sign(u[:, 0].sum())))
    return np.array(vectors).reshape(n, -1, channels)


@pytest.mark.parametrize("iterations", [1, 2])
@pytest.mark.parametrize("smooth", [False, True])
def test_against_the_svd(iterations: int, smooth: bool, rng: np.random.Generator) -> None:
    """Features as they come out of a ReLU: alike at all positions of a region, or not."""
    noise = rng.standard_normal((2, 16, 24, 64))
    common = rng.standard_normal((2, 2, 3, 64)).repeat(8, 1).repeat(8, 2) if smooth else 0
    image = np.maximum(noise + common, 0).astype(np.float32)
    got = reduced_non_local.dominant_vectors(jnp.asarray(image), (2, 3), iterations)
    np.testing.assert_allclose(jnp.linalg.norm(got, axis=-1), 1, rtol=1e-5)
    cosine = (np.asarray(got) * singular_vectors(image, 8, 8)).sum(-1)
    assert cosine.min() >= 0.999


@pytest.mark.parametrize(
    ("size", "regions", "cut"),
    [((4, 6), (2, 3), (2, 2)), ((5, 7), (2, 3), (3, 3)), ((3, 11), (8, 4), (1, 3))],
)
def test_regions_that_do_not_divide_the_image(size, regions, cut, rng) -> None:
    """Against loops; the last regions are smaller, none is empty."""
    image = np.abs(rng.standard_normal((2, *size, 3))).astype(np.float32)
    got = reduced_non_local.dominant_vectors(jnp.asarray(image), regions, 30)
    expected = singular_vectors(image, *cut)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_a_region_of_zeros_has_no_vector_and_a_finite_gradient() -> None:
    image = jnp.ones((1, 4, 4, 3)).at[:, :2, :2].set(0)

    def total(image: jax.Array) -> jax.Array:
        return reduced_non_local.dominant_vectors(image, (2, 2), 2).sum()

    vectors = reduced_non_local.dominant_vectors(image, (2, 2), 2)
    np.testing.assert_array_equal(vectors[0, 0], 0)
    np.testing.assert_allclose(vectors[0, 1:], 3**-0.5, rtol=1e-6)
    assert jnp.isfinite(jax.grad(total)(image)).all()


# Gradients, types, operations


def test_gradients_against_finite_differences(rng: np.random.Generator) -> None:
    net = layer(regions=(2, 2))
    net.reduce_norm.bias[...] = jnp.full(4, 4.0)  # No ReLU changes sign within the differences.
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    image = jnp.asarray(rng.standard_normal((1, 4, 6, 6)), jnp.float32)
    check_grads(
        jax.jit(lambda p, x: jnp.sin(nnx.merge(graphdef, p, rest)(x))),
        (params, image),
        order=1,
        modes=("rev",),
        eps=1e-2,
        atol=1e-2,
        rtol=1e-2,
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_types(dtype: str, rng: np.random.Generator) -> None:
    image = jnp.asarray(rng.standard_normal((1, 8, 8, 6)), jnp.float32)
    net = layer(regions=(2, 2))
    narrow = run(net, image.astype(dtype))
    assert narrow.dtype == dtype
    np.testing.assert_allclose(narrow.astype(jnp.float32), run(net, image), atol=0.1)


def test_operations() -> None:
    """Four products of every pixel, two of every vector, the power method, the two of the attention."""
    pixels, inner, vectors = 16 * 24, 4, 8 * 8
    with counting() as count:
        jax.eval_shape(layer(), jnp.ones((1, 16, 24, 6)))
    expected = pixels * 3 * 6 * inner + vectors * 2 * inner**2
    expected += 2 * 2 * pixels * inner + 2 * pixels * vectors * inner
    assert count.in_blocks == {"": expected}


# Dropout


def test_dropout_of_whole_channels() -> None:
    drop = nn.Dropout(0.25)
    image = jnp.ones((40, 2, 3, 50))
    with nn.dropout_key(jax.random.key(0)):
        first, second = np.asarray(drop(image)), np.asarray(drop(image))
    for got in (first, second):
        np.testing.assert_array_equal(got, got[:, :1, :1].repeat(2, 1).repeat(3, 2))
        np.testing.assert_allclose(np.unique(got), [0, 4 / 3], rtol=1e-6)
        assert (got == 0).mean() == pytest.approx(0.25, abs=0.03)
    assert (first != second).any()
    with nn.dropout_key(jax.random.key(0)):
        np.testing.assert_array_equal(drop(image), first)


def test_dropout_in_blocks_is_that_of_the_image() -> None:
    drop = nn.Dropout(0.5)
    image = jnp.ones((3, 8, 8, 20))
    mask = np.array([[[True, False], [False, True]], [[False] * 2] * 2, [[True] * 2] * 2])
    with nn.dropout_key(jax.random.key(0)):
        expected = drop(image)
    with nn.dropout_key(jax.random.key(0)):
        got = sb.combine(drop(sb.split(image, mask)))
    np.testing.assert_array_equal(got, expected)


def test_nothing_is_dropped_without_a_key_or_in_evaluation() -> None:
    drop = nn.Dropout(0.5)
    image = jnp.ones((1, 2, 2, 8))
    np.testing.assert_array_equal(drop(image), image)
    drop.eval()
    with nn.dropout_key(jax.random.key(0)):
        np.testing.assert_array_equal(drop(image), image)
