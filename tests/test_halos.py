"""Halos that reach across several blocks: padding, patches, and every network in blocks of 64."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import nnx
from golden import assert_within, network
from hypothesis import example, given, settings
from hypothesis import strategies as st

import segblocks_jax as sb
from segblocks_jax.blocks.pad import index_patches
from segblocks_jax.models.registry import MODELS, PLAIN
from segblocks_jax.ops import extension
from segblocks_jax.ops.patches import BORDERS, gather

pytestmark = pytest.mark.usefixtures("compiled")

# Of those with a choice of width, narrow ones.
NARROW = {"lrnnet": {"width": 16}} | {f"swiftnet_rn{n}": {"width": 8} for n in (18, 34, 50, 101)}


def drawn(grid: tuple[int, int, int], low: int, factor: int, bits: int) -> sb.DualRes:
    """Blocks with a mask of these bits."""
    mask = (bits >> np.arange(np.prod(grid)) & 1 == 1).reshape(grid)
    layout = sb.BlockGrid.from_mask(mask, low_factor=factor)
    pixels = np.random.default_rng(bits).standard_normal((layout.num_pixels(low * factor), 2))
    return sb.DualRes(jnp.asarray(pixels, jnp.float32), layout)


def ring(part: jax.Array) -> jax.Array:
    """Different cotangents for all elements."""
    return jnp.cos(jnp.arange(part.size, dtype=jnp.float32)).reshape(part.shape)


BLOCKS = given(
    grid=st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 4)),
    low=st.integers(1, 4),
    factor=st.integers(1, 3),
    bits=st.integers(0, 2**32 - 1),
    padding=st.tuples(st.integers(0, 40), st.integers(0, 40)),
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@BLOCKS
@example(grid=(1, 4, 4), low=1, factor=2, bits=0x5A3C, padding=(3, 7))
def test_padding_by_place(grid, low, factor, bits, padding) -> None:
    check_padding(grid, low, factor, bits, padding)


def test_padding_across_four_blocks() -> None:
    check_padding((1, 3, 4), 1, 2, 0x5A3, (7, 3))


def check_padding(grid, low, factor, bits, padding) -> None:
    """Values and gradients of both implementations against loops over pixels."""
    blocks = drawn(grid, low, factor, bits)
    packing = oracles.Packing(np.asarray(blocks.grid.mask), low * factor, factor)
    tables = [oracles.pad(packing, high, padding) for high in (True, False)]
    for name in ("ffi", "xla"):

        def padded(pixels: jax.Array, name: str = name) -> tuple[jax.Array, jax.Array]:
            result = sb.block_pad(sb.DualRes(pixels, blocks.grid), padding, implementation=name)
            return result.high, result.low

        parts, transpose = jax.vjp(jax.jit(padded), blocks.pixels)
        cotangents = tuple(map(ring, parts))
        gradient = np.zeros((blocks.pixels.shape[0], 2))
        for part, cotangent, table in zip(parts, cotangents, tables, strict=True):
            expected = table.apply(np.asarray(blocks.pixels))
            np.testing.assert_allclose(part.reshape(-1, 2), expected, atol=1e-6)
            gradient += table.transpose(np.asarray(cotangent).reshape(-1, 2))
        scale = max(1.0, float(np.abs(gradient).max()))
        np.testing.assert_allclose(transpose(cotangents)[0], gradient, atol=1e-5 * scale)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@BLOCKS
def test_patches_by_place(grid, low, factor, bits, padding) -> None:
    """The patches lead to what `block_pad` gives; at the border of the image, to its outermost pixels."""
    blocks = drawn(grid, low, factor, bits)
    for border in BORDERS:
        results = []
        for name in ("ffi", "xla"):
            patches = index_patches(
                blocks.grid, low * factor, max(padding), border, implementation=name
            )
            results.append(gather(blocks.pixels, patches))
        for got, expected in zip(*results, strict=True):
            np.testing.assert_array_equal(got, expected)
        if border == "zero":
            padded = sb.block_pad(blocks, max(padding), implementation="xla")
            np.testing.assert_allclose(results[0][0], padded.high, atol=1e-6)
            np.testing.assert_allclose(results[0][1], padded.low, atol=1e-6)


def mean2(image: jax.Array) -> jax.Array:
    n, h, w, c = image.shape
    return image.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name not in PLAIN])
def test_uniform_grids_of_64_equal_images(
    name: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and gradients: logits on all-high; on all-low the backbone's features, of half the image.

    With smooth activations: where rounding switches a single ReLU, gradients jump.
    """
    for activation in ("relu", "relu6"):
        monkeypatch.setattr(jax.nn, activation, jax.nn.silu)
    options = NARROW.get(name, {})
    net = network(lambda: sb.create_model(name, 5, **options, rngs=nnx.Rngs(0)))
    net.eval()
    image = jnp.asarray(rng.standard_normal((1, 128, 192, 3)), jnp.float32)
    grid = np.ones((1, 2, 3), bool)
    at_half = sb.BlockGrid.from_mask(grid, low_factor=1)
    graphdef, state = nnx.split(net)

    def logits(state: nnx.State, image: jax.Array) -> list[jax.Array]:
        return [nnx.merge(graphdef, state)(image)]

    def logits_of_blocks(state: nnx.State, image: jax.Array) -> list[jax.Array]:
        return [sb.combine(nnx.merge(graphdef, state)(sb.split(image, grid)))]

    def features(state: nnx.State, image: jax.Array) -> list[jax.Array]:
        return jax.tree.leaves(nnx.merge(graphdef, state).backbone(mean2(image)))

    def features_of_blocks(state: nnx.State, image: jax.Array) -> list[jax.Array]:
        maps = nnx.merge(graphdef, state).backbone(sb.split(image, ~grid))
        parts = jax.tree.leaves(maps, is_leaf=lambda x: isinstance(x, sb.DualRes))
        return [sb.combine(sb.DualRes(part.pixels, at_half)) for part in parts]

    def values(*functions: Callable) -> list[tuple[list, jax.Array]]:
        @jax.jit
        def run(state: nnx.State, image: jax.Array) -> list[tuple[list, jax.Array]]:
            results = []
            for function in functions:
                value, transpose = jax.vjp(lambda x, f=function: f(state, x), image)
                results.append((value, *transpose(list(map(ring, value)))))
            return results

        return run(state, image)

    in_blocks = values(logits_of_blocks, features_of_blocks)
    dense = values(logits, features)
    with extension.using("xla"):
        dense_again = values(logits, features)
    assert len(dense[1][0]) >= (1 if name == "lrnnet" else 3)
    for (got, gradient), (wanted, expected), (_, again) in zip(
        in_blocks, dense, dense_again, strict=True
    ):
        for part, wanted_part in zip(got, wanted, strict=True):
            assert_within(part, wanted_part, 2e-5, name)
        # A hundred layers amplify rounding: as much as two dense networks whose sums have another order.
        error, rounding = (jnp.sqrt(jnp.square(x - expected).mean()) for x in (gradient, again))
        assert error <= 4 * rounding + 1e-5 * expected.std(), name
