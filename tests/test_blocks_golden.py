"""split, combine and block_pad: the numbers that the authors' kernels produced."""

import functools
import pathlib

import golden
import jax
import numpy as np
import pytest
from jax import jit

import segblocks_jax as sb


@pytest.fixture(scope="module")
def recorded(shared: pathlib.Path) -> dict[str, np.ndarray]:
    return golden.load(shared, "ops")


golden_grids = pytest.mark.parametrize(
    "name", [f"{b}/{g}" for b in ("bs8", "bs4") for g in ("rand0", "rand1", "rand2", "high", "low")]
)


class Recorded:
    """The arrays of one block size and grid."""

    def __init__(self, arrays: dict[str, np.ndarray], name: str) -> None:
        self.get = lambda key: arrays[f"{name}/{key}"]
        self.mask = self.get("grid")
        self.grid = sb.BlockGrid.from_mask(self.mask)

    def blocks(self, high: str, low: str) -> sb.DualRes:
        return golden.blocks(self.get(high), self.get(low), self.mask)


@pytest.mark.family
@golden_grids
def test_golden_split(recorded: dict, name: str, implementation: str) -> None:
    z = Recorded(recorded, name)
    total = z.mask.size
    index = z.get("block_idx")
    np.testing.assert_array_equal(
        z.grid.slots, np.where(z.mask, index, index + total + z.grid.num_high)
    )
    np.testing.assert_array_equal(z.grid.high_cells, z.get("map_hr")[: z.grid.num_high])
    np.testing.assert_array_equal(z.grid.low_cells, z.get("map_lr")[: z.grid.num_low])

    @jit
    def both(image: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, vjp = jax.vjp(
            lambda x: sb.split(x, z.grid, implementation=implementation).pixels, image
        )
        return value, vjp(cotangent)[0]

    cotangent = z.blocks("split/ct_hr", "split/ct_lr").pixels
    pixels, gradient = both(golden.nhwc(z.get("x")), cotangent)
    blocks = sb.DualRes(pixels, z.grid)
    expected = z.blocks("split/hr", "split/lr")
    np.testing.assert_array_equal(blocks.high, expected.high)
    np.testing.assert_allclose(blocks.low, expected.low, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(gradient, golden.nhwc(z.get("split/grad_x")))


@pytest.mark.family
@golden_grids
@pytest.mark.parametrize("upsampling", ["bilinear", "nearest"])
def test_golden_combine(recorded: dict, name: str, upsampling: str, implementation: str) -> None:
    z = Recorded(recorded, name)
    key = "combine" if upsampling == "bilinear" else "combine_nearest"

    @jit
    def both(pixels: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, vjp = jax.vjp(
            lambda x: sb.combine(sb.DualRes(x, z.grid), upsampling, implementation=implementation),
            pixels,
        )
        return value, vjp(cotangent)[0]

    image, gradient = both(z.blocks("hr", "lr").pixels, golden.nhwc(z.get("combine/ct")))
    rtol = 0 if upsampling == "nearest" else 1e-6
    expected = golden.nhwc(z.get(f"{key}/out"))
    np.testing.assert_allclose(image, expected, rtol=rtol, atol=rtol / 10)
    expected, got = z.blocks(f"{key}/grad_hr", f"{key}/grad_lr"), sb.DualRes(gradient, z.grid)
    np.testing.assert_array_equal(got.high, expected.high)
    np.testing.assert_allclose(got.low, expected.low, rtol=1e-6, atol=1e-6)


@pytest.mark.family
@golden_grids
def test_golden_pad(recorded: dict, name: str, implementation: str) -> None:
    z = Recorded(recorded, name)
    kinds = {"hr": z.grid.num_high, "lr": z.grid.num_low}
    keys = [
        (p, f"pad{p}_{kind}")
        for p in (1, 2, 3)
        for kind, count in kinds.items()
        if count and f"{name}/pad{p}_{kind}/out" in recorded
    ]
    assert keys

    def pad(pixels: jax.Array, p: int, key: str) -> jax.Array:
        padded = sb.block_pad(sb.DualRes(pixels, z.grid), p, implementation=implementation)
        return padded.high if key.endswith("hr") else padded.low

    def both(pixels: jax.Array, cotangents: dict) -> dict:
        results = {}
        for p, key in keys:
            value, vjp = jax.vjp(functools.partial(pad, p=p, key=key), pixels)
            results[key] = value, vjp(cotangents[key])[0]
        return results

    cotangents = {key: golden.nhwc(z.get(f"{key}/ct")) for _, key in keys}
    results = jit(both)(z.blocks("hr", "lr").pixels, cotangents)
    for key, (value, gradient) in results.items():
        rtol = 0 if key.endswith("hr") else 1e-6
        expected = golden.nhwc(z.get(f"{key}/out"))
        np.testing.assert_allclose(value, expected, rtol=rtol, atol=rtol / 10)
        expected = z.blocks(f"{key}/grad_hr", f"{key}/grad_lr").pixels
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=2e-6)
