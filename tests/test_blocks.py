"""BlockGrid, split, combine and block_pad: against numpy loops, and each other."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import oracles
import pytest
from cases import CASES, DTYPES, SMALL
from jax import jit

import segblocks_jax as sb

PADDINGS = ((1, 1), (2, 2), (3, 3), (1, 2))
GRADIENT_PADDINGS = ((1, 1), (1, 2))
HALF_CASES = ("two_images", "one_pixel_low", "all_low", "factor4")

small_cases = pytest.mark.parametrize("name", SMALL)
typed_cases = pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, d) for d in DTYPES for name in (SMALL if d == "float32" else HALF_CASES)],
)


@functools.cache
def case_grid(name: str) -> sb.BlockGrid:
    case = CASES[name]
    return sb.BlockGrid.from_mask(case.mask(), low_factor=case.low_factor)


@functools.cache
def tables(name: str) -> dict[str, oracles.Table]:
    """The oracles of all linear operations that a case allows."""
    case = CASES[name]
    packing = oracles.Packing(case.mask(), case.block_size, case.low_factor)
    found = {"split": oracles.split(packing)}
    for upsampling in ("bilinear", "nearest"):
        found[upsampling] = oracles.combine(packing, upsampling)
    for padding in PADDINGS:
        if max(padding) <= case.block_size:
            for kind in ("high", "low"):
                found[f"pad {kind} {padding}"] = oracles.pad(packing, kind == "high", padding)
    return found


def operations(name: str, implementation: str) -> dict[str, Callable[[jax.Array], jax.Array]]:
    """The operations of `tables`, from a list of pixels to a list of pixels."""
    case, grid = CASES[name], case_grid(name)
    use = {"implementation": implementation}

    def flat(array: jax.Array) -> jax.Array:
        return array.reshape(-1, case.channels)

    def pad(x: jax.Array, kind: str, padding: tuple[int, int]) -> jax.Array:
        return flat(getattr(sb.block_pad(sb.DualRes(x, grid), padding, **use), kind))

    found = {"split": lambda x: sb.split(x.reshape(case.image_shape), grid, **use).pixels}
    for upsampling in ("bilinear", "nearest"):
        found[upsampling] = lambda x, u=upsampling: flat(sb.combine(sb.DualRes(x, grid), u, **use))
    for padding in PADDINGS:
        for kind in ("high", "low"):
            found[f"pad {kind} {padding}"] = functools.partial(pad, kind=kind, padding=padding)
    return {key: found[key] for key in tables(name)}


@functools.cache
def forward(name: str, implementation: str) -> Callable[[dict], dict]:
    """All operations of a case as one program, from inputs by operation to results."""
    functions = operations(name, implementation)
    return jit(lambda inputs: {key: functions[key](x) for key, x in inputs.items()})


def inputs(name: str, dtype: str = "float32") -> dict[str, jax.Array]:
    """Whole numbers for every operation."""
    case = CASES[name]
    shapes = {key: (table.inputs, case.channels) for key, table in tables(name).items()}
    return {key: jnp.asarray(case.integers(shape, dtype)) for key, shape in shapes.items()}


def whole_blocks(name: str) -> sb.DualRes:
    return sb.DualRes(inputs(name)["nearest"], case_grid(name))


def assert_exact(got: dict[str, jax.Array], expected: dict[str, np.ndarray], dtype: str) -> None:
    """Equal to the last bit: the oracles are exact, and rounded once."""
    for key, value in expected.items():
        assert got[key].dtype == dtype
        rounded = value.astype(jnp.dtype(dtype))
        np.testing.assert_array_equal(np.asarray(got[key]), rounded, err_msg=key)


# BlockGrid


def check_grid(grid: sb.BlockGrid, expected: tuple[np.ndarray, list[int], list[int]]) -> None:
    mask, high, low = expected
    np.testing.assert_array_equal(grid.mask, mask)
    assert grid.high_cells.tolist() == high
    assert grid.low_cells.tolist() == low
    slots = np.asarray(grid.slots).reshape(-1)
    assert [(high + low)[slot] for slot in slots] == list(range(mask.size))
    assert (grid.num_high, grid.num_low, grid.num_blocks) == (len(high), len(low), mask.size)


@pytest.mark.family
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
    build = sb.BlockGrid.from_mask
    if num_high is not None:
        build = jit(build, static_argnums=1)
    check_grid(build(mask, num_high, scores), expected)


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
def test_grid_errors(
    mask: np.ndarray, options: dict, error: type[Exception], text: str, unchecked: None
) -> None:
    with pytest.raises(error, match=text):
        sb.BlockGrid.from_mask(mask, **options)


def test_traced_mask_needs_num_high() -> None:
    with pytest.raises(ValueError, match=r"the mask is traced.*pass num_high=k"):
        jax.jit(sb.BlockGrid.from_mask)(jnp.zeros((1, 2, 3), bool))


# The three operations against loops


@pytest.mark.family
@typed_cases
def test_operations_against_loops(name: str, dtype: str, implementation: str) -> None:
    given = inputs(name, dtype)
    expected = {key: table.apply(np.asarray(given[key])) for key, table in tables(name).items()}
    assert_exact(forward(name, implementation)(given), expected, dtype)


@pytest.mark.family
@typed_cases
def test_implementations_agree(name: str, dtype: str, compiled: None, rng) -> None:
    given = {
        key: jnp.asarray(rng.standard_normal(x.shape), dtype) for key, x in inputs(name).items()
    }
    ffi, xla = (forward(name, implementation)(given) for implementation in ("ffi", "xla"))
    for key in given:
        if key != "bilinear":
            np.testing.assert_array_equal(ffi[key], xla[key], err_msg=key)
    # The order of a bilinear sum is free, so half types may round to the other neighbor.
    got, expected = (x["bilinear"].astype(jnp.float32) for x in (ffi, xla))
    rtol = max(1e-6, float(jnp.finfo(dtype).eps))
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=1e-6)


@small_cases
def test_shapes(name: str) -> None:
    case, grid = CASES[name], case_grid(name)
    blocks = sb.split(case.image(), grid)
    b, s, c = case.block_size, case.low_size, case.channels
    assert blocks.high.shape == (grid.num_high, b, b, c)
    assert blocks.low.shape == (grid.num_low, s, s, c)
    assert sb.combine(blocks).shape == case.image_shape
    padded = sb.block_pad(blocks, (1, 2))
    assert padded.high.shape == (grid.num_high, b + 2, b + 4, c)
    assert padded.low.shape == (grid.num_low, s + 2, s + 4, c)


# Gradients


@pytest.mark.family
@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, "float32") for name in SMALL), ("two_images", "bfloat16"), ("two_images", "float16")],
)
def test_gradients_against_transposed_loops(name: str, dtype: str, implementation: str) -> None:
    """f^T(y) equals the oracle's to the last bit, and <f(x), y> = <x, f^T(y)>."""
    functions, case, given = operations(name, implementation), CASES[name], inputs(name, dtype)
    chosen = {
        key: table
        for key, table in tables(name).items()
        if not key.startswith("pad") or key.endswith(tuple(map(str, GRADIENT_PADDINGS)))
    }
    cotangents = {
        key: jnp.asarray(case.integers((table.outputs, case.channels), dtype, seed=3))
        for key, table in chosen.items()
    }

    def transpose(x: dict, cotangents: dict) -> dict:
        return {key: jax.vjp(functions[key], x[key])[1](y)[0] for key, y in cotangents.items()}

    values, gradients = forward(name, implementation)(given), jit(transpose)(given, cotangents)
    expected = {key: table.transpose(np.asarray(cotangents[key])) for key, table in chosen.items()}
    assert_exact(gradients, expected, dtype)
    for key, y in cotangents.items():
        left, right = (
            np.vdot(np.asarray(a, np.float64), np.asarray(b, np.float64))
            for a, b in ((values[key], y), (given[key], gradients[key]))
        )
        assert left == right, key


def test_gradients_against_finite_differences(implementation: str) -> None:
    grid = case_grid("one_pixel_low")

    def chain(image: jax.Array) -> jax.Array:
        blocks = sb.split(image, grid, implementation=implementation)
        padded = sb.block_pad(blocks, 1, implementation=implementation)
        image = sb.combine(blocks, implementation=implementation)
        return jnp.sin(image).sum() + (padded.high**2).sum() + (padded.low**2).sum()

    image = jnp.asarray(CASES["one_pixel_low"].image())
    jax.test_util.check_grads(
        jax.jit(chain), (image,), order=1, modes=["rev"], atol=2e-2, rtol=2e-2
    )


# Properties


@small_cases
def test_combine_of_split_is_the_image_where_high(name: str) -> None:
    case = CASES[name]
    image = case.image()
    blocks = sb.split(image, case_grid(name))
    back = np.asarray(sb.combine(blocks))
    high = case.mask().repeat(case.block_size, 1).repeat(case.block_size, 2)
    np.testing.assert_array_equal(back[high], image[high])
    again = sb.split(back, blocks.grid)
    np.testing.assert_array_equal(again.high, blocks.high)


@pytest.mark.family
@pytest.mark.parametrize("name", ["two_images", "prime_grid", "factor4"])
@pytest.mark.parametrize("axis", [1, 2])
def test_flipping_commutes(name: str, axis: int) -> None:
    """Pad and combine of the flipped image are those of the image, flipped."""
    case = CASES[name]

    def run(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        grid = sb.BlockGrid.from_mask(mask, low_factor=case.low_factor)
        blocks = sb.split(image, grid)
        padded = sb.block_pad(blocks, 2)
        by_slot = [*np.asarray(padded.high), *np.asarray(padded.low)]
        return np.asarray(sb.combine(blocks)), [by_slot[s] for s in np.asarray(grid.slots).flat]

    image, mask = case.integers(case.image_shape), case.mask()
    combined, cells = run(image, mask)
    flipped, flipped_cells = run(np.flip(image, axis), np.flip(mask, axis))
    np.testing.assert_array_equal(np.flip(flipped, axis), combined)
    order = np.flip(np.arange(mask.size).reshape(mask.shape), axis)
    for cell, old in zip(flipped_cells, order.flat, strict=True):
        np.testing.assert_array_equal(np.flip(cell, axis - 1), cells[old])


def test_the_references_example(implementation: str) -> None:
    """12 x 12 ramp, block 4, only the center high: its padding row, from the reference's text."""
    ramp = np.arange(144, dtype=np.float32).reshape(1, 12, 12, 1)
    mask = np.zeros((1, 3, 3), bool)
    mask[0, 1, 1] = True
    grid = sb.BlockGrid.from_mask(mask)

    @jit
    def pad(ramp: jax.Array) -> sb.PaddedBlocks:
        blocks = sb.split(ramp, grid, implementation=implementation)
        return sb.block_pad(blocks, 1, implementation=implementation)

    padded = pad(ramp)
    assert padded.high[0, 0, :, 0].tolist() == [32.5, 34.5, 34.5, 36.5, 36.5, 38.5]


def test_pixels_of_no_whole_blocks() -> None:
    blocks = whole_blocks("two_images")
    wrong = dataclasses.replace(blocks, pixels=blocks.pixels[:-1])
    for use in (sb.combine, lambda x: x.high, lambda x: sb.block_pad(x, 1)):
        with pytest.raises(ValueError, match=r"pixels don't fill 12 high and 12 low blocks"):
            use(wrong)


# Errors


@pytest.mark.parametrize(
    ("shape", "grid", "text"),
    [
        (
            (1, 13, 16, 3),
            (1, 3, 4),
            r"height 13 is not a multiple of the mask's 3 blocks; pad it to 15",
        ),
        (
            (1, 12, 18, 3),
            (1, 3, 4),
            r"width 18 is not a multiple of the mask's 4 blocks; pad it to 20",
        ),
        ((1, 12, 32, 3), (1, 3, 4), r"blocks of 4 x 8 pixels .*must be square"),
        ((1, 9, 12, 3), (1, 3, 4), r"block size 3 is not a multiple of the low factor 2"),
    ],
)
def test_split_shape_errors(shape: tuple[int, ...], grid: tuple[int, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        sb.split(np.zeros(shape, np.float32), np.zeros(grid, bool))


def test_split_of_another_batch() -> None:
    grid = sb.BlockGrid.from_mask(np.zeros((1, 3, 4), bool))
    with pytest.raises(ValueError, match="2 images, but the mask is for 1; give one grid an image"):
        sb.split(np.zeros((2, 12, 16, 3), np.float32), grid)


def test_split_grid_errors() -> None:
    image = np.zeros((1, 8, 8, 1), np.float32)
    grid = sb.BlockGrid.from_mask(np.zeros((1, 2, 2), bool))
    for option in ({"num_high": 1}, {"scores": np.zeros((1, 2, 2))}, {"low_factor": 4}):
        with pytest.raises(ValueError, match="already fixes num_high, scores and low_factor"):
            sb.split(image, grid, **option)


def test_unsupported_dtype() -> None:
    case = CASES["two_images"]
    image = case.image().astype(jnp.float8_e4m3fn)
    with pytest.raises(
        TypeError, match=r"split: image has dtype float8_e4m3fn; expected one of float32"
    ):
        sb.split(image, case.mask())
    blocks = whole_blocks("two_images")
    wrong = dataclasses.replace(blocks, pixels=blocks.pixels.astype(jnp.int32))
    for name, use in (("combine", sb.combine), ("block_pad", lambda x: sb.block_pad(x, 1))):
        with pytest.raises(
            TypeError, match=rf"{name}: blocks has dtype int32; .*astype\('float32'\)"
        ):
            use(wrong)


@pytest.mark.parametrize("padding", [-1, (2, -1)])
def test_padding_errors(padding: int | tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="it can't be negative"):
        sb.block_pad(whole_blocks("two_images"), padding)


def test_option_errors() -> None:
    blocks = whole_blocks("two_images")
    for use in (
        lambda name: sb.split(CASES["two_images"].image(), blocks.grid, implementation=name),
        lambda name: sb.combine(blocks, implementation=name),
        lambda name: sb.block_pad(blocks, 1, implementation=name),
    ):
        with pytest.raises(
            ValueError, match="implementation is 'cuda'; expected one of 'ffi', 'xla'"
        ):
            use("cuda")
