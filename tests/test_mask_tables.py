"""Tables of a mask, and rows added at its active pixels: handlers and references against loops; malformed calls."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segblocks_jax.ops.mask_patches import dilate
from segblocks_jax.ops.mask_tables import MaskTables, PaddedWindow, mask_add, mask_tables
from segblocks_jax.ops.patches import Taps

# (n, h, w) of the mask, stride of the dilation, (height, width) of the images, then side, stride and padding of the
# first and of the second window.
Case = tuple[tuple[int, ...], int, tuple[int, int], tuple[int, int, int], tuple[int, int, int]]
CASES: dict[str, Case] = {
    "basic": ((2, 9, 14), 1, (9, 14), (3, 1, 1), (3, 1, 1)),
    "basic, stride": ((3, 5, 4), 1, (9, 8), (3, 2, 1), (3, 1, 1)),
    "bottleneck": ((2, 33, 40), 1, (33, 40), (1, 1, 0), (3, 1, 1)),
    "bottleneck, stride": ((2, 4, 3), 2, (7, 6), (1, 1, 0), (3, 2, 1)),
    "one pixel": ((1, 1, 1), 1, (1, 1), (1, 1, 0), (3, 1, 1)),
    "wide": ((1, 3, 3), 3, (8, 9), (1, 1, 0), (5, 3, 2)),
}
DENSITIES = (0.0, 0.1, 0.6, 1.0)


def window(side: int, stride: int, padding: int) -> PaddedWindow:
    return PaddedWindow(Taps((side, side), stride, 1), (padding, padding))


def tables_of(case: Case, mask: np.ndarray, implementation: str) -> MaskTables:
    _, stride, size, first, second = case
    run = jax.jit(
        lambda m: mask_tables(
            m, stride, size, window(*first), window(*second), implementation=implementation
        )
    )
    return run(jnp.asarray(mask))


def expected_tables(case: Case, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both tables and the sites, pixel by pixel."""
    _, stride, (height, width), first, second = case

    def reads(sites, source, side, step, padding):
        table = np.full((len(sites), side, side), -1, np.int32)
        for row, (i, y, x) in enumerate(sites):
            for dy, dx in itertools.product(range(side), repeat=2):
                sy, sx = y * step - padding + dy, x * step - padding + dx
                if 0 <= sy < source.shape[1] and 0 <= sx < source.shape[2]:
                    table[row, dy, dx] = source[i, sy, sx]
        return table

    ho, wo = ((side + 2 * first[2] - first[0]) // first[1] + 1 for side in (height, width))
    dilated = np.asarray(dilate(mask, stride))[:, :ho, :wo]
    numbers = np.full(dilated.shape, -1)
    numbers[dilated] = np.arange(dilated.sum())
    pixels = np.arange(len(mask) * height * width).reshape(-1, height, width)
    one = reads(np.argwhere(dilated), pixels, *first)
    return one, reads(np.argwhere(mask), numbers, *second), np.flatnonzero(mask)


@pytest.mark.usefixtures("compiled")
@pytest.mark.family(of=("name",))
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("name", CASES)
def test_tables(name: str, density: float, rng: np.random.Generator) -> None:
    check_tables(name, density, rng, ("ffi", "xla"))


def check_tables(
    name: str, density: float, rng: np.random.Generator, implementations: tuple[str, ...]
) -> None:
    case = CASES[name]
    mask = rng.random(case[0]) < density
    first, second, sites = expected_tables(case, mask)
    for implementation in implementations:
        got = tables_of(case, mask, implementation)
        for patches, expected in ((got.first, first), (got.second, second)):
            assert patches.counts.tolist() == [len(expected), 0]
            np.testing.assert_array_equal(patches.high[: len(expected)], expected)
        np.testing.assert_array_equal(got.sites[: len(sites)], sites)
        order = got.in_order()
        assert order.counts.tolist() == [len(sites), 0]
        np.testing.assert_array_equal(order.high[:, 0, 0], np.arange(mask.size))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("rest", [False, True])
@pytest.mark.parametrize("activation", ["none", "relu", "relu6"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_add(dtype: str, activation: str, rest: bool, rng: np.random.Generator) -> None:
    for channels, density in itertools.product((3, 64), DENSITIES):
        check_add(dtype, activation, rest, channels, density, rng, ("ffi", "xla"))


def check_add(
    dtype: str,
    activation: str,
    rest: bool,
    channels: int,
    density: float,
    rng: np.random.Generator,
    implementations: tuple[str, ...],
) -> None:
    case = CASES["bottleneck"]
    mask = rng.random(case[0]) < density
    image, rows = (
        jnp.asarray(4 * rng.standard_normal((mask.size, channels)), dtype) for _ in range(2)
    )
    ends = {"none": (-np.inf, np.inf), "relu": (0, np.inf), "relu6": (0, 6)}[activation]
    given = np.asarray(image, np.float32)
    expected = np.array(given)
    if rest:
        expected = np.clip(expected, *ends)
    active = mask.reshape(-1)
    sums = given[active] + np.asarray(rows, np.float32)[: active.sum()]
    expected[active] = np.clip(jnp.asarray(sums, dtype).astype(np.float32), *ends)
    for implementation in implementations:

        @jax.jit
        def run(image, rows, mask, implementation=implementation):
            tables = mask_tables(mask, 1, case[2], window(*case[3]), window(*case[4]))
            return mask_add(
                image, rows, tables, activation, rest=rest, implementation=implementation
            )

        got = run(image, rows, jnp.asarray(mask))
        np.testing.assert_array_equal(got.astype(np.float32), expected)
    np.testing.assert_array_equal(np.asarray(image, np.float32), given)


def test_an_image_that_is_read_again_stays(rng: np.random.Generator, compiled: None) -> None:
    image = jnp.asarray(rng.standard_normal((126, 8)), jnp.float32)
    case = CASES["basic"]

    @jax.jit
    def run(image: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        twice = 2 * image
        tables = mask_tables(mask, 1, case[2], window(*case[3]), window(*case[4]))
        return mask_add(twice, image, tables), twice

    out, before = run(image, jnp.ones((1, 9, 14), bool))
    np.testing.assert_array_equal(before, 2 * image)
    np.testing.assert_array_equal(out, 3 * image)


# Malformed calls


def run_tables(
    mask: tuple = ((2, 3, 4), "bool"), results: dict | None = None, **attributes
) -> None:
    shapes = {
        **{"first": (24, 1, 1), "second": (24, 3, 3), "sites": (24,), "rows": (2, 3, 4)},
        **{"dilated_counts": (2,), "counts": (2,), "parts": (2,)},
    }
    buffers = {name: (shape, "int32") for name, shape in shapes.items()} | (results or {})
    values = {"height": 3, "width": 4, "dilation_stride": 1, "first_stride": 1, "first_padding": 0}
    values |= {"second_stride": 1, "second_padding": 1} | attributes
    types = [jax.ShapeDtypeStruct(*buffer) for buffer in buffers.values()]
    call = jax.ffi.ffi_call("segblocks_mask_tables", types)
    attributes = {name: np.int64(value) for name, value in values.items()}
    jax.block_until_ready(jax.jit(lambda m: call(m, **attributes))(jnp.zeros(*mask)))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    ("spoiled", "text"),
    [
        ({"mask": ((2, 12), "bool")}, r"'mask'.*rank 3 \(n, h, w\)"),
        ({"mask": ((2, 3, 4), "int32")}, "'mask'.*dtype PRED"),
        ({"mask": ((1, 3, 4), "bool")}, r"'rows'.*shape \(1, 3, 4\)"),
        ({"results": {"first": ((24, 1), "int32")}}, r"'first'.*rank 3 \(p, k, k\)"),
        ({"results": {"first": ((24, 1, 2), "int32")}}, r"'first'.*shape \(24, 1, 1\)"),
        ({"results": {"second": ((23, 3, 3), "int32")}}, r"'second'.*shape \(24, 3, 3\)"),
        ({"results": {"second": ((24, 3, 3), "float32")}}, "'second'.*dtype S32"),
        ({"results": {"sites": ((25,), "int32")}}, r"'sites'.*shape \(24\)"),
        ({"results": {"rows": ((2, 12), "int32")}}, "'rows'.*rank 3"),
        ({"results": {"counts": ((1,), "int32")}}, r"'counts'.*shape \(2\)"),
        ({"results": {"dilated_counts": ((2,), "int8")}}, "'dilated_counts'.*dtype S32"),
        ({"results": {"parts": ((3,), "int32")}}, r"'parts'.*shape \(2\)"),
        ({"height": 0}, "'height'.*1 .. "),
        ({"width": 2**62}, "'width'.*1 .. "),
        ({"dilation_stride": 0}, "'dilation_stride'.*1 .. "),
        ({"first_stride": -1}, "'first_stride'.*1 .. "),
        ({"second_padding": -1}, "'second_padding'.*0 .. "),
        ({"height": 2**14, "width": 2**14, "mask": ((2**4, 3, 4), "bool"), "results": {
            "first": ((192, 1, 1), "int32"), "second": ((192, 3, 3), "int32"),
            "sites": ((192,), "int32"), "rows": ((16, 3, 4), "int32")}}, "'mask'.*at most"),
    ],
)  # fmt: skip
def test_malformed_tables(spoiled: dict, text: str) -> None:
    with pytest.raises(Exception, match=f"segblocks_mask_tables: argument {text}"):
        run_tables(**spoiled)


def run_add(spoiled: dict, in_place: bool = True, activation: int = 1, rest: int = 1) -> None:
    arrays = {
        **{"image": jnp.zeros((6, 5)), "rows": jnp.zeros((6, 5)), "mask": jnp.zeros(6, bool)},
        **{"sites": jnp.zeros(6, jnp.int32), "counts": jnp.zeros(2, jnp.int32)},
    }
    arrays |= {name: jnp.asarray(value) for name, value in spoiled.items()}
    shape = jax.ShapeDtypeStruct(arrays["image"].shape, arrays["image"].dtype)
    call = jax.ffi.ffi_call(
        "segblocks_mask_add", shape, input_output_aliases={0: 0} if in_place else {}
    )
    run = jax.jit(lambda *a: call(*a, activation=np.int64(activation), rest=np.int64(rest)))
    jax.block_until_ready(run(*arrays.values()))


def test_valid_calls_run(compiled: None) -> None:
    run_tables()
    run_add({})


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    ("spoiled", "text"),
    [
        ({"image": np.zeros(6, np.float32)}, r"'image'.*rank 2 \(p, c\)"),
        ({"image": np.zeros((6, 5), np.float16)}, "'image'.*dtype F32 or BF16"),
        ({"rows": np.zeros((5, 5), np.float32)}, r"'rows'.*shape \(6, 5\)"),
        ({"rows": np.zeros((6, 5), np.int32)}, "'rows'.*dtype F32"),
        ({"mask": np.zeros(6, np.int8)}, "'mask'.*dtype PRED"),
        ({"sites": np.zeros(7, np.int32)}, r"'sites'.*shape \(6\)"),
        ({"counts": np.zeros(3, np.int32)}, r"'counts'.*shape \(2\)"),
    ],
)
def test_malformed_add(spoiled: dict, text: str) -> None:
    with pytest.raises(Exception, match=f"segblocks_mask_add: argument {text}"):
        run_add(spoiled)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"activation": 3}, "'activation'.*0 .. 2"),
        ({"rest": 2}, "'rest'.*0 .. 1"),
        ({"in_place": False}, "'out'.*a buffer of its own, expected that of argument 'image'"),
    ],
)
def test_malformed_options_of_add(options: dict, text: str) -> None:
    with pytest.raises(Exception, match=f"segblocks_mask_add: argument {text}"):
        run_add({}, **options)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"counts": np.array([7, 0], np.int32)}, "'counts': got 7 sites, expected a number in 0 .. 6"),
        ({"counts": np.array([-1, 0], np.int32)}, "'counts': got -1 sites"),
        ({"counts": np.array([2, 0], np.int32), "sites": np.array([3, 3, 0, 0, 0, 0], np.int32)},
         "'sites': got pixel 3 at position 1, expected a pixel in 4 .. 5"),
        ({"counts": np.array([1, 0], np.int32), "sites": np.array([6, 0, 0, 0, 0, 0], np.int32)},
         "'sites': got pixel 6 at position 0"),
    ],
)  # fmt: skip
def test_wrong_data_of_add(data: dict, text: str) -> None:
    if jax.default_backend() != "cpu":
        pytest.skip("only the CPU handlers read their data before they start")
    with pytest.raises(Exception, match=f"segblocks_mask_add: argument {text}"):
        run_add(data)
