"""On a GPU: every compiled operation against its reference, forward and backward, in every dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import segblocks_jax as sb

pytestmark = pytest.mark.gpu

# (n, gh, gw, block size, channels, low factor, share of high blocks)
CASES = {
    "mixed": (2, 3, 5, 8, 16, 2, 0.4),
    "odd channels": (1, 2, 3, 4, 3, 2, 0.5),
    "factor 4": (1, 3, 2, 8, 19, 4, 0.5),
    "one pixel": (2, 2, 2, 2, 64, 2, 0.5),
    "all high": (1, 2, 3, 8, 8, 2, 1.0),
    "all low": (1, 2, 3, 8, 8, 2, 0.0),
    "stride 4 of 1024 x 2048": (1, 8, 16, 32, 64, 2, 0.4),
}
# Relative to the largest value: one rounding to the dtype, after float32 sums in another order.
TOLERANCE = {"float32": 1e-6, "bfloat16": 2**-8, "float16": 2**-10}


def blocks_of(case, dtype):
    n, gh, gw, side, channels, factor, share = CASES[case]
    rng = np.random.default_rng(0)
    scores = rng.random((n, gh, gw), np.float32)
    mask = np.zeros((n, gh, gw), bool)
    grid = sb.BlockGrid.from_mask(mask, round(share * mask.size), scores, factor)
    image = jnp.asarray(rng.standard_normal((n, gh * side, gw * side, channels)), dtype)
    return image, grid


def both_ways(function, x):
    """Value and gradient of each implementation, for one random cotangent."""
    out = []
    for implementation in ("xla", "ffi"):
        value, pull = jax.vjp(lambda x, i=implementation: function(x, i), x)
        cotangent = jax.tree.map(
            lambda v: jnp.asarray(np.random.default_rng(1).standard_normal(v.shape), v.dtype), value
        )
        out.append(jax.device_get((value, pull(cotangent)[0])))
    return out


def check(function, x):
    reference, compiled = both_ways(jax.jit(function, static_argnums=1), x)
    for a, b in zip(jax.tree.leaves(reference), jax.tree.leaves(compiled), strict=True):
        assert a.shape == b.shape
        if a.size:
            a, b = a.astype(np.float64), b.astype(np.float64)
            assert np.abs(a - b).max() <= 4 * TOLERANCE[str(x.dtype)] * np.abs(a).max()


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("case", list(CASES))
def test_split_and_combine(case, dtype):
    image, grid = blocks_of(case, dtype)
    check(lambda x, i: sb.split(x, grid, implementation=i).pixels, image)
    pixels = sb.split(image, grid, implementation="xla").pixels
    for upsampling in ("bilinear", "nearest"):
        check(
            lambda p, i, u=upsampling: sb.combine(sb.DualRes(p, grid), u, implementation=i), pixels
        )


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("padding", [1, 2, (0, 1)], ids=str)
def test_block_pad(case, dtype, padding):
    image, grid = blocks_of(case, dtype)
    pixels = sb.split(image, grid, implementation="xla").pixels

    def pad(p, implementation):
        padded = sb.block_pad(sb.DualRes(p, grid), padding, implementation=implementation)
        return padded.high, padded.low

    check(pad, pixels)


def test_the_backward_is_deterministic():
    image, grid = blocks_of("stride 4 of 1024 x 2048", "float32")
    pixels = sb.split(image, grid).pixels

    def loss(p):
        return jnp.sum(jnp.square(sb.block_pad(sb.DualRes(p, grid), 1, implementation="ffi").low))

    gradient = jax.jit(jax.grad(loss))
    first = np.asarray(gradient(pixels))
    for _ in range(5):
        np.testing.assert_array_equal(np.asarray(gradient(pixels)), first)
