"""BlockGrid, split, combine and block_pad: against numpy loops, each other, and the reference's numbers."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

import segblocks_jax as sb
import golden
import oracles
from cases import CASES, DTYPES, SMALL, Case

PADDINGS = (1, 2, 3, (1, 2))
UPSAMPLINGS = ("bilinear", "nearest")

small_cases = pytest.mark.parametrize("case", [CASES[name] for name in SMALL], ids=SMALL)
paddings = pytest.mark.parametrize("padding", PADDINGS, ids=str)


def packing(case: Case) -> oracles.Packing:
    return oracles.Packing(case.mask(), case.block_size, case.low_factor)


def case_grid(case: Case) -> sb.BlockGrid:
    return sb.BlockGrid.from_mask(case.mask(), low_factor=case.low_factor)


def whole_blocks(case: Case, dtype: str = "float32", seed: int = 0) -> sb.DualRes:
    """Blocks of whole numbers."""
    pixels = case.integers((packing(case).pixels, case.channels), dtype, seed)
    return sb.DualRes(jnp.asarray(pixels), case_grid(case))


def assert_same(got: jax.Array, expected: np.ndarray, dtype: str) -> None:
    """Equal to the last bit: the oracle is exact, and rounded once."""
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, expected.reshape(got.shape).astype(jnp.dtype(dtype)))


# BlockGrid


def check_grid(grid: sb.BlockGrid, expected: tuple[np.ndarray, list[int], list[int]]) -> None:
    mask, high, low = expected
    np.testing.assert_array_equal(grid.mask, mask)
    assert grid.high_cells.tolist() == high
    assert grid.low_cells.tolist() == low
    slots = np.asarray(grid.slots).reshape(-1)
    assert [(high + low)[slot] for slot in slots] == list(range(mask.size))
    assert (grid.num_high, grid.num_low, grid.num_blocks) == (len(high), len(low), mask.size)


@pytest.mark.parametrize("num_high", [None, 0, 1, 7, 11, 12])
@pytest.mark.parametrize("kind", ["none", "distinct", "ties", "nan", "infinite", "uint8", "int32"])
def test_grid_against_loop(num_high: int | None, kind: str, rng: np.random.Generator) -> None:
    shape = (2, 2, 3)
    scores = {
        "none": None,
        "distinct": rng.standard_normal(shape).astype(np.float32),
        "ties": rng.integers(0, 3, shape).astype(np.float32),
        "nan": rng.choice(np.array([np.nan, 0, 1], np.float32), shape),
        "infinite": rng.choice(np.array([np.nan, -np.inf, 0, np.inf], np.float32), shape),
        "uint8": rng.choice(np.array([0, 1, 200, 255], np.uint8), shape),
        "int32": rng.choice(np.array([-(2**31), -1, 0, 2**31 - 1], np.int32), shape),
    }[kind]
    mask = rng.random(shape) < 0.5
    expected = oracles.grid(mask, num_high, scores)
    check_grid(sb.BlockGrid.from_mask(mask, num_high, scores), expected)
    if num_high is not None:
        jitted = jax.jit(sb.BlockGrid.from_mask, static_argnums=1)
        check_grid(jitted(mask, num_high, scores), expected)


def test_grid_of_no_images() -> None:
    grid = sb.BlockGrid.from_mask(np.zeros((0, 2, 3), bool))
    assert grid.num_blocks == 0
    blocks = sb.split(np.zeros((0, 8, 12, 3), np.float32), grid)
    assert blocks.pixels.shape == (0, 3)


@pytest.mark.parametrize(
    ("mask", "options", "error", "text"),
    [
        (np.zeros((2, 3), bool), {}, ValueError, r"shape \(2, 3\); expected \(images, grid rows"),
        (np.zeros((1, 2, 3), np.uint8), {}, TypeError, "dtype uint8; expected bool"),
        (np.zeros((1, 2, 3), bool), {"num_high": 7}, ValueError, "num_high is 7.*has 6 blocks"),
        (np.zeros((1, 2, 3), bool), {"num_high": -1}, ValueError, r"num_high is -1.*give 0 \.\. 6"),
        (np.zeros((1, 2, 3), bool), {"low_factor": 0}, ValueError, "low_factor is 0; it must be"),
        (
            np.zeros((1, 2, 3), bool),
            {"scores": np.zeros((1, 3, 2), np.float32)},
            ValueError,
            r"scores have shape \(1, 3, 2\), the mask \(1, 2, 3\)",
        ),
    ],
)
def test_grid_errors(mask: np.ndarray, options: dict, error: type[Exception], text: str) -> None:
    # jaxtyping's check of the annotations would come first.
    with pytest.raises(error, match=text):
        sb.BlockGrid.from_mask.__func__.__wrapped__(sb.BlockGrid, mask, **options)


def test_traced_mask_needs_num_high() -> None:
    with pytest.raises(ValueError, match="the mask is traced.*pass num_high=k"):
        jax.jit(sb.BlockGrid.from_mask)(jnp.zeros((1, 2, 3), bool))


# The three operations against loops


@small_cases
@pytest.mark.parametrize("dtype", DTYPES)
def test_split_against_loop(case: Case, dtype: str, implementation: str) -> None:
    image = case.integers(case.image_shape, dtype)
    blocks = sb.split(image, case_grid(case), implementation=implementation)
    expected = oracles.split(packing(case)).apply(image.reshape(-1, case.channels))
    assert_same(blocks.pixels, expected, dtype)
    assert blocks.high.shape[1:] == (case.block_size, case.block_size, case.channels)
    assert blocks.low.shape[1:] == (case.low_size, case.low_size, case.channels)


@small_cases
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_combine_against_loop(
    case: Case, dtype: str, upsampling: str, implementation: str
) -> None:
    blocks = whole_blocks(case, dtype)
    image = sb.combine(blocks, upsampling, implementation=implementation)
    assert image.shape == case.image_shape
    expected = oracles.combine(packing(case), upsampling).apply(np.asarray(blocks.pixels))
    assert_same(image, expected, dtype)


@small_cases
@pytest.mark.parametrize("dtype", DTYPES)
@paddings
def test_pad_against_loop(
    case: Case, dtype: str, padding: int | tuple[int, int], implementation: str
) -> None:
    both = padding if isinstance(padding, tuple) else (padding, padding)
    if max(both) > case.block_size:
        pytest.skip("larger than a block: an error, tested elsewhere")
    blocks = whole_blocks(case, dtype)
    padded = sb.block_pad(blocks, padding, implementation=implementation)
    for high, got in ((True, padded.high), (False, padded.low)):
        side = case.block_size if high else case.low_size
        assert got.shape[1:] == (side + 2 * both[0], side + 2 * both[1], case.channels)
        expected = oracles.pad(packing(case), high, both).apply(np.asarray(blocks.pixels))
        assert_same(got, expected, dtype)


@small_cases
@pytest.mark.parametrize("dtype", DTYPES)
def test_implementations_agree(case: Case, dtype: str, compiled: None) -> None:
    grid, image = case_grid(case), case.image(dtype)
    ffi, xla = (sb.split(image, grid, implementation=name) for name in ("ffi", "xla"))
    np.testing.assert_array_equal(ffi.pixels, xla.pixels)
    for operation in (
        functools.partial(sb.combine, low_upsampling="nearest"),
        functools.partial(sb.block_pad, padding=1),
    ):
        jax.tree.map(
            np.testing.assert_array_equal,
            operation(xla, implementation="ffi"),
            operation(xla, implementation="xla"),
        )
    # The order of a bilinear sum is free, so half types may round to the other neighbour.
    rtol = max(1e-6, float(jnp.finfo(dtype).eps))
    np.testing.assert_allclose(
        sb.combine(xla, implementation="ffi").astype(jnp.float32),
        sb.combine(xla, implementation="xla").astype(jnp.float32),
        rtol=rtol,
        atol=1e-6,
    )


# Gradients


@small_cases
def test_gradients_against_transposed_loops(case: Case, implementation: str) -> None:
    grid, blocks = case_grid(case), whole_blocks(case)

    def split(image: jax.Array) -> jax.Array:
        return sb.split(image, grid, implementation=implementation).pixels

    def combine(pixels: jax.Array, upsampling: str) -> jax.Array:
        return sb.combine(sb.DualRes(pixels, grid), upsampling, implementation=implementation)

    def pad(pixels: jax.Array, padding: int) -> list[jax.Array]:
        padded = sb.block_pad(sb.DualRes(pixels, grid), padding, implementation=implementation)
        return [padded.high, padded.low]

    image = jnp.asarray(case.integers(case.image_shape))
    check_transpose(case, split, image, [oracles.split(packing(case))])
    for upsampling in UPSAMPLINGS:
        function = functools.partial(combine, upsampling=upsampling)
        check_transpose(
            case, function, blocks.pixels, [oracles.combine(packing(case), upsampling)]
        )
    for p in (1, 2):
        tables = [oracles.pad(packing(case), high, (p, p)) for high in (True, False)]
        check_transpose(case, functools.partial(pad, padding=p), blocks.pixels, tables)


def check_transpose(case: Case, function, x: jax.Array, tables: list[oracles.Table]) -> None:
    """f^T(y) equals the oracle's, exactly, and <f(x), y> = <x, f^T(y)>."""
    value, vjp = jax.vjp(function, x)
    leaves, tree = jax.tree.flatten(value)
    y = [case.integers(leaf.shape, seed=3) for leaf in leaves]
    (gradient,) = vjp(jax.tree.unflatten(tree, [jnp.asarray(part) for part in y]))
    expected = sum(
        table.transpose(part.reshape(-1, case.channels))
        for table, part in zip(tables, y, strict=True)
    )
    assert_same(gradient, expected, "float32")
    left = sum(np.vdot(leaf, part) for leaf, part in zip(leaves, y, strict=True))
    assert left == pytest.approx(np.vdot(x, gradient), rel=1e-5, abs=1e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_gradients(dtype: str, implementation: str) -> None:
    case = CASES["two_images"]
    blocks = whole_blocks(case, dtype)

    def pad(pixels: jax.Array) -> list[jax.Array]:
        padded = sb.block_pad(sb.DualRes(pixels, blocks.grid), 1, implementation=implementation)
        return [padded.high, padded.low]

    check = [oracles.pad(packing(case), high, (1, 1)) for high in (True, False)]
    value, vjp = jax.vjp(pad, blocks.pixels)
    y = [case.integers(leaf.shape, dtype, seed=3) for leaf in value]
    (gradient,) = vjp([jnp.asarray(part) for part in y])
    parts = zip(check, y, strict=True)
    assert_same(
        gradient, sum(table.transpose(part.reshape(-1, 5)) for table, part in parts), dtype
    )


def test_gradients_against_finite_differences(implementation: str) -> None:
    case = CASES["one_pixel_low"]
    grid = case_grid(case)

    def chain(image: jax.Array) -> jax.Array:
        blocks = sb.split(image, grid, implementation=implementation)
        padded = sb.block_pad(blocks, 1, implementation=implementation)
        image = sb.combine(blocks, implementation=implementation)
        return jnp.sin(image).sum() + (padded.high**2).sum() + (padded.low**2).sum()

    image = jnp.asarray(case.image())
    jax.test_util.check_grads(chain, (image,), order=1, modes=["rev"], atol=2e-2, rtol=2e-2)


# Properties


@small_cases
def test_combine_of_split_is_the_image_where_high(case: Case, implementation: str) -> None:
    image = case.image()
    blocks = sb.split(image, case_grid(case), implementation=implementation)
    back = np.asarray(sb.combine(blocks, implementation=implementation))
    high = case.mask().repeat(case.block_size, 1).repeat(case.block_size, 2)
    np.testing.assert_array_equal(back[high], image[high])
    again = sb.split(back, blocks.grid, implementation=implementation)
    np.testing.assert_array_equal(again.high, blocks.high)


@small_cases
@pytest.mark.parametrize("axis", [1, 2])
def test_flipping_commutes(case: Case, axis: int, implementation: str) -> None:
    """Split, pad and combine of the flipped image are those of the image, flipped."""

    def run(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        grid = sb.BlockGrid.from_mask(mask, low_factor=case.low_factor)
        blocks = sb.split(image, grid, implementation=implementation)
        padded = sb.block_pad(blocks, 2, implementation=implementation)
        slots = np.asarray(grid.slots)
        cells = [
            (padded.high, padded.low)[int(slot >= grid.num_high)][
                slot - grid.num_high * (slot >= grid.num_high)
            ]
            for slot in slots.reshape(-1)
        ]
        order = np.arange(mask.size).reshape(mask.shape)
        return sb.combine(blocks, implementation=implementation), (cells, order)

    image, mask = case.integers(case.image_shape), case.mask()
    combined, (cells, order) = run(image, mask)
    flipped, (flipped_cells, _) = run(np.flip(image, axis), np.flip(mask, axis))
    np.testing.assert_array_equal(np.flip(flipped, axis), combined)
    for cell, old in zip(flipped_cells, np.flip(order, axis).reshape(-1), strict=True):
        np.testing.assert_array_equal(np.flip(cell, axis - 1), cells[old])


def test_the_references_example(implementation: str) -> None:
    """12 x 12 ramp, block 4, only the centre high: its padding row, from the reference's text."""
    ramp = np.arange(144, dtype=np.float32).reshape(1, 12, 12, 1)
    mask = np.zeros((1, 3, 3), bool)
    mask[0, 1, 1] = True
    padded = sb.block_pad(sb.split(ramp, mask), 1, implementation=implementation)
    assert padded.high[0, 0, :, 0].tolist() == [32.5, 34.5, 34.5, 36.5, 36.5, 38.5]


def test_pixels_of_no_whole_blocks() -> None:
    blocks = whole_blocks(CASES["two_images"])
    wrong = dataclasses.replace(blocks, pixels=blocks.pixels[:-1])
    for use in (sb.combine, lambda x: x.high, lambda x: sb.block_pad(x, 1)):
        with pytest.raises(ValueError, match=r"pixels don't fill 12 high and 12 low blocks"):
            use(wrong)


# Errors


@pytest.mark.parametrize(
    ("shape", "grid", "text"),
    [
        ((1, 13, 16, 3), (1, 3, 4), r"height 13 is not a multiple of the mask's 3 blocks; pad it to 15"),
        ((1, 12, 18, 3), (1, 3, 4), r"width 18 is not a multiple of the mask's 4 blocks; pad it to 20"),
        ((1, 12, 32, 3), (1, 3, 4), r"blocks of 4 x 8 pixels .*must be square"),
        ((2, 12, 16, 3), (1, 3, 4), r"2 images, but the mask is for 1"),
        ((1, 9, 12, 3), (1, 3, 4), r"block size 3 is not a multiple of the low factor 2"),
    ],
)
def test_split_shape_errors(shape: tuple[int, ...], grid: tuple[int, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        sb.split(np.zeros(shape, np.float32), np.zeros(grid, bool))


def test_split_grid_errors() -> None:
    image = np.zeros((1, 8, 8, 1), np.float32)
    grid = sb.BlockGrid.from_mask(np.zeros((1, 2, 2), bool))
    for option in ({"num_high": 1}, {"scores": np.zeros((1, 2, 2))}, {"low_factor": 4}):
        with pytest.raises(ValueError, match="already fixes num_high, scores and low_factor"):
            sb.split(image, grid, **option)


def test_unsupported_dtype() -> None:
    case = CASES["two_images"]
    image = case.image().astype(jnp.float8_e4m3fn)
    with pytest.raises(TypeError, match=r"split: image has dtype float8_e4m3fn; expected one of float32"):
        sb.split(image, case.mask())
    blocks = whole_blocks(case)
    wrong = dataclasses.replace(blocks, pixels=blocks.pixels.astype(jnp.int32))
    for name, use in (("combine", sb.combine), ("block_pad", lambda x: sb.block_pad(x, 1))):
        with pytest.raises(TypeError, match=rf"{name}: blocks has dtype int32; .*astype\('float32'\)"):
            use(wrong)


@pytest.mark.parametrize(
    ("padding", "text"),
    [
        (9, "padding 9 is larger than the blocks, which are 8 pixels"),
        ((1, 9), r"padding \(1, 9\) is larger"),
        (-1, "padding is -1; it can't be negative"),
    ],
)
def test_padding_errors(padding: int | tuple[int, int], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        sb.block_pad(whole_blocks(CASES["two_images"]), padding)


def test_option_errors() -> None:
    blocks = whole_blocks(CASES["two_images"])
    for use in (
        lambda name: sb.split(CASES["two_images"].image(), blocks.grid, implementation=name),
        lambda name: sb.combine(blocks, implementation=name),
        lambda name: sb.block_pad(blocks, 1, implementation=name),
    ):
        with pytest.raises(ValueError, match="implementation is 'cuda'; expected one of 'ffi', 'xla'"):
            use("cuda")


# The reference's numbers


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
        self.paddings = [p for p in (1, 2, 3) if f"{name}/pad{p}_hr/out" in arrays]

    def blocks(self, high: str, low: str) -> sb.DualRes:
        return golden.blocks(self.get(high), self.get(low), self.mask)


@golden_grids
def test_golden_split(recorded: dict, name: str, implementation: str) -> None:
    z = Recorded(recorded, name)
    total = z.mask.size
    index = z.get("block_idx")
    np.testing.assert_array_equal(z.grid.slots, np.where(z.mask, index, index + total + z.grid.num_high))
    np.testing.assert_array_equal(z.grid.high_cells, z.get("map_hr")[: z.grid.num_high])
    np.testing.assert_array_equal(z.grid.low_cells, z.get("map_lr")[: z.grid.num_low])
    value, vjp = jax.vjp(
        lambda x: sb.split(x, z.grid, implementation=implementation).pixels, golden.nhwc(z.get("x"))
    )
    blocks = sb.DualRes(value, z.grid)
    expected = z.blocks("split/hr", "split/lr")
    np.testing.assert_array_equal(blocks.high, expected.high)
    np.testing.assert_allclose(blocks.low, expected.low, rtol=1e-6, atol=1e-7)
    (gradient,) = vjp(z.blocks("split/ct_hr", "split/ct_lr").pixels)
    np.testing.assert_array_equal(gradient, golden.nhwc(z.get("split/grad_x")))


@golden_grids
@pytest.mark.parametrize(("upsampling", "key"), [("bilinear", "combine"), ("nearest", "combine_nearest")])
def test_golden_combine(
    recorded: dict, name: str, upsampling: str, key: str, implementation: str
) -> None:
    z = Recorded(recorded, name)
    image, vjp = jax.vjp(
        lambda x: sb.combine(sb.DualRes(x, z.grid), upsampling, implementation=implementation),
        z.blocks("hr", "lr").pixels,
    )
    expected = golden.nhwc(z.get(f"{key}/out"))
    rtol = 0 if upsampling == "nearest" else 1e-6
    np.testing.assert_allclose(image, expected, rtol=rtol, atol=rtol / 10)
    (gradient,) = vjp(golden.nhwc(z.get("combine/ct")))
    expected = z.blocks(f"{key}/grad_hr", f"{key}/grad_lr")
    got = sb.DualRes(gradient, z.grid)
    np.testing.assert_array_equal(got.high, expected.high)
    np.testing.assert_allclose(got.low, expected.low, rtol=1e-6, atol=1e-6)


@golden_grids
def test_golden_pad(recorded: dict, name: str, implementation: str) -> None:
    z = Recorded(recorded, name)
    assert z.paddings
    for p in z.paddings:
        for kind in ("hr", "lr"):
            key = f"pad{p}_{kind}"
            if f"{name}/{key}/out" in recorded and (z.grid.num_high if kind == "hr" else z.grid.num_low):
                check_golden_pad(z, p, key, implementation)


def check_golden_pad(z: Recorded, p: int, key: str, implementation: str) -> None:
    def pad(pixels: jax.Array) -> jax.Array:
        padded = sb.block_pad(sb.DualRes(pixels, z.grid), p, implementation=implementation)
        return padded.high if key.endswith("hr") else padded.low

    value, vjp = jax.vjp(pad, z.blocks("hr", "lr").pixels)
    expected = golden.nhwc(z.get(f"{key}/out"))
    if key.endswith("hr"):
        np.testing.assert_array_equal(value, expected)
    np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-7)
    (gradient,) = vjp(golden.nhwc(z.get(f"{key}/ct")))
    np.testing.assert_allclose(
        gradient, z.blocks(f"{key}/grad_hr", f"{key}/grad_lr").pixels, rtol=1e-6, atol=2e-6
    )
