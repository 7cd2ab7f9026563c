"""Operations on bytes: definitions against whole numbers in numpy, handlers against definitions, bit for bit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from indexed_oracles import Units

from segblocks_jax.ops.max_pool import indexed_max_pool
from segblocks_jax.ops.patches import IndexPatches, list_patches
from segblocks_jax.ops.quantized_conv import QuantizedEpilogue, quantized_conv
from segblocks_jax.ops.quantized_kernel import quantize_kernel
from segblocks_jax.ops.upsample2 import indexed_upsample2

IMPLEMENTATIONS = ("ffi", "reference")
NO_LIMITS = jnp.array([1, -np.inf, np.inf], jnp.float32)


def byte_units(rng, channels, sizes, counts=None, **options):
    """Rows of all bytes."""
    units = Units.random(rng, channels, sizes, counts=counts, **options)
    rows = rng.integers(0, 256, units.rows.shape).astype(np.uint8)
    return dataclasses.replace(units, rows=rows)


def patches_of(units):
    return IndexPatches(
        *map(jnp.asarray, (*units.patches, units.means)), jnp.asarray(units.counts, jnp.int32)
    )


def gathered(units, zero):
    """The live patches as whole numbers; half a unit of a halo mean goes up."""
    total, reads = units.rows.astype(np.int64)[units.means].sum(1), units.means.shape[1]
    halos = np.floor_divide(2 * total + reads, 2 * reads)
    outside = np.full((1, units.rows.shape[1]), zero)
    table = np.concatenate([units.rows, halos, outside])  # -1 is the last one.
    pairs = zip(units.patches, units.counts, strict=True)
    return [table[patch[:count]] for patch, count in pairs]


def sums(maps, taps, size, stride, dilation, depthwise):
    """(p, k) whole numbers of live units."""
    outputs = []
    for maps_of_one_size in maps:
        m, h, w, _ = maps_of_one_size.shape
        ho, wo = (
            max((side - dilation * (k - 1) - 1) // stride + 1, 0)
            for side, k in zip((h, w), size, strict=True)
        )
        out = np.zeros((m, ho, wo, taps.shape[-1]), np.int64)
        for i, j in np.ndindex(size):
            rows = slice(i * dilation, i * dilation + stride * (ho - 1) + 1, stride)
            columns = slice(j * dilation, j * dilation + stride * (wo - 1) + 1, stride)
            tap, part = taps[i * size[1] + j].astype(np.int64), maps_of_one_size[:, rows, columns]
            out += part * tap if depthwise else part @ tap
        outputs.append(out.reshape(-1, taps.shape[-1]))
    return np.concatenate(outputs)


def kernel_of(rng, size, channels, features, depthwise):
    shape = (size[0] * size[1], features) if depthwise else (size[0] * size[1], channels, features)
    return quantize_kernel(jnp.asarray(rng.standard_normal(shape), jnp.float32), size, depthwise)


def plain(features, out="float32"):
    """An epilogue that changes nothing."""
    return QuantizedEpilogue(jnp.ones(features), jnp.zeros(features), NO_LIMITS, out=out)


@st.composite
def problems(draw):
    """Sizes of a convolution."""
    size = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    stride, dilation = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    extent = [dilation * (k - 1) + 1 for k in size]
    units = [
        (
            draw(st.integers(0, 3)),
            extent[0] + draw(st.integers(0, 9)),
            extent[1] + draw(st.integers(0, 9)),
        )
        for _ in range(2)
    ]
    counts = tuple(draw(st.integers(0, m)) for m, _, _ in units)
    depthwise = draw(st.booleans())
    channels = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 15, 16, 17, 33, 40, 64, 70]))
    features = channels if depthwise else draw(st.sampled_from([1, 7, 16, 19, 40, 64, 75, 200]))
    return (
        size,
        stride,
        dilation,
        tuple(units),
        counts,
        depthwise and channels > 1,
        channels,
        features,
    )


def check_sums(problem, zero, rng):
    size, stride, dilation, units_of, counts, depthwise, channels, features = problem
    units = byte_units(rng, channels, units_of, counts)
    kernel, _, totals = kernel_of(rng, size, channels, features, depthwise)
    taps = np.asarray(kernel.taps())
    assert np.abs(taps.astype(int)).max() <= 127
    np.testing.assert_array_equal(totals, taps.sum(tuple(range(taps.ndim - 1)), dtype=int))
    expected = sums(gathered(units, zero), taps, size, stride, dilation, depthwise)
    for implementation in IMPLEMENTATIONS:
        got, second = quantized_conv(
            jnp.asarray(units.rows),
            jnp.full(1, zero, jnp.uint8),
            patches_of(units),
            kernel,
            plain(features),
            stride,
            dilation=dilation,
            implementation=implementation,
        )
        assert second is None
        np.testing.assert_array_equal(got[: len(expected)], expected.astype(np.float32))


PROBLEMS = {
    "odd channels": ((3, 3), 1, 1, ((3, 7, 9), (2, 5, 3)), (3, 2), False, 7, 42),
    "many of them": ((3, 1), 2, 1, ((3, 9, 30), (4, 5, 3)), (2, 4), False, 64, 200),
    "stacks": ((3, 3), 1, 1, ((2, 11, 34), (2, 10, 18)), (2, 2), False, 64, 75),
    "few channels": ((7, 7), 2, 1, ((2, 19, 37), (2, 13, 21)), (2, 1), False, 3, 48),
    "dilated": ((2, 3), 1, 2, ((2, 7, 9), (0, 3, 5)), (2, 0), False, 16, 64),
    "depthwise": ((3, 3), 2, 1, ((3, 9, 33), (2, 5, 3)), (3, 1), True, 75, 75),
    "depthwise of 5": ((5, 5), 1, 1, ((2, 12, 12), (2, 6, 6)), (2, 2), True, 32, 32),
    "nothing live": ((3, 3), 1, 1, ((3, 7, 9), (2, 5, 3)), (0, 0), False, 8, 16),
}


@pytest.mark.family(of=("loops",))
@pytest.mark.parametrize("name", PROBLEMS)
def test_sums_are_those_of_whole_numbers(name, loops, rng):
    check_sums(PROBLEMS[name], 201, rng)


@pytest.mark.slow
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(problem=problems(), zero=st.integers(0, 255), seed=st.integers(0, 2**32 - 1))
def test_sums_of_any_shape(problem, zero, seed, loops):
    check_sums(problem, zero, np.random.default_rng(seed))


def epilogues(rng, pixels, features):
    def vector(scale=1.0):
        return jnp.asarray(rng.standard_normal(features) * scale, jnp.float32)

    residuals = {
        "uint8": jnp.asarray(rng.integers(0, 256, (pixels, features)), jnp.uint8),
        "float32": jnp.asarray(rng.standard_normal((pixels, features)) * 40, jnp.float32),
    }
    limits = jnp.array([0.37, 3, 180.3], jnp.float32)
    yield QuantizedEpilogue(vector(1e-2), vector(90), NO_LIMITS)
    yield QuantizedEpilogue(vector(1e-2), vector(90), limits, residuals["uint8"])
    yield QuantizedEpilogue(vector(1e-2), vector(90), limits, residuals["float32"], out="float32")
    for out in ("uint8", "float32", None):
        for second in ("uint8", "float32"):
            yield QuantizedEpilogue(
                vector(1e-2),
                vector(90),
                limits,
                residuals["uint8"],
                (vector(), vector(60)),
                out,
                second,
            )


@pytest.mark.family(of=("loops",))
@pytest.mark.parametrize(("channels", "features", "depthwise"), [(12, 75, False), (40, 40, True)])
def test_epilogues_are_equal_to_the_last_bit(channels, features, depthwise, loops, rng):
    units = byte_units(rng, channels, ((3, 9, 8), (2, 5, 7)))
    kernel, _, _ = kernel_of(rng, (3, 3), channels, features, depthwise)
    patches = patches_of(units)
    for epilogue in epilogues(rng, patches.num_outputs((3, 3), 1), features):
        results = [
            quantized_conv(
                jnp.asarray(units.rows),
                jnp.full(1, 77, jnp.uint8),
                patches,
                kernel,
                epilogue,
                implementation=implementation,
            )
            for implementation in IMPLEMENTATIONS
        ]
        for got, expected, dtype in zip(*results, (epilogue.out, epilogue.second), strict=True):
            assert (got is None) == (expected is None) == (dtype is None)
            if got is not None:
                assert got.dtype == expected.dtype == dtype
                np.testing.assert_array_equal(got, expected)


def test_bytes_are_the_nearest_ones(compiled):
    """To even in the middle, clipped; NaN becomes 0."""
    rows, kernel = (
        jnp.ones((1, 4), jnp.uint8),
        quantize_kernel(jnp.ones((1, 4, 1)), (1, 1), False)[0],
    )
    values = [-1e9, -0.6, 0.5, 1.5, 2.5, 2.500001, 254.5, 255.4, 1e9, np.nan]
    for value, expected in zip(values, [0, 0, 0, 2, 2, 3, 254, 255, 255, 0], strict=True):
        for implementation in IMPLEMENTATIONS:
            epilogue = QuantizedEpilogue(jnp.zeros(1), jnp.full(1, value, jnp.float32), NO_LIMITS)
            got, _ = quantized_conv(
                rows,
                jnp.zeros(1, jnp.uint8),
                list_patches(1),
                kernel,
                epilogue,
                implementation=implementation,
            )
            assert int(got[0, 0]) == expected, (value, implementation)


def test_large_sums_do_not_wrap(compiled):
    rows = jnp.full((1, 4096), 255, jnp.uint8)
    kernel, scale, _ = quantize_kernel(jnp.full((1, 4096, 3), -0.5), (1, 1), False)
    np.testing.assert_allclose(scale, 0.5 / 127, rtol=1e-6)
    for implementation in IMPLEMENTATIONS:
        got, _ = quantized_conv(
            rows,
            jnp.zeros(1, jnp.uint8),
            list_patches(1),
            kernel,
            plain(3),
            implementation=implementation,
        )
        np.testing.assert_array_equal(got[0], np.float32(255 * -127 * 4096))
    with pytest.raises(ValueError, match="sums up 66000 products; expected at most 65793"):
        quantize_kernel(jnp.ones((1, 66000, 1)), (1, 1), False)


@pytest.mark.parametrize("channels", [3, 16, 75])
def test_maxima_and_upsampling_of_bytes(channels, compiled, rng):
    units = byte_units(rng, channels, ((3, 6, 8), (2, 5, 4)))
    found, patches, rows = gathered(units, 0), patches_of(units), jnp.asarray(units.rows)
    windows = [np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2)) for x in found]
    maxima = np.concatenate([x[:, ::2, ::2].max((-2, -1)).reshape(-1, channels) for x in windows])
    inner = []
    for maps in found:
        m, h, w, _ = maps.shape
        out = np.zeros((m, 2 * (h - 2), 2 * (w - 2), channels), int)
        for y, x in np.ndindex(2 * (h - 2), 2 * (w - 2)):
            i, j = y // 2 + 1, x // 2 + 1
            di, dj = 2 * (y % 2) - 1, 2 * (x % 2) - 1
            near, far = (
                3 * maps[:, i, j] + maps[:, i, j + dj],
                3 * maps[:, i + di, j] + maps[:, i + di, j + dj],
            )
            out[:, y, x] = (3 * near + far + 8) // 16
        inner.append(out.reshape(-1, channels))
    for implementation in ("ffi", "xla"):
        got = indexed_max_pool(rows, patches, 3, 2, implementation=implementation)
        np.testing.assert_array_equal(got, maxima)
        got = indexed_upsample2(rows, patches, implementation=implementation)
        np.testing.assert_array_equal(got, np.concatenate(inner))


def test_exports_for_other_platforms_run_the_definition():
    kernel = quantize_kernel(jnp.ones((1, 4, 1)), (1, 1), False)[0]
    run = jax.jit(
        lambda rows: quantized_conv(
            rows, jnp.zeros(1, jnp.uint8), list_patches(2), kernel, plain(1), implementation="ffi"
        )[0]
    )
    for platform, calls in (("cpu", True), ("cuda", False)):
        lowered = run.trace(jnp.ones((2, 4), jnp.uint8)).lower(lowering_platforms=(platform,))
        assert ("segblocks_quantized_conv" in lowered.as_text()) == calls


def test_misfits_are_named():
    kernel = quantize_kernel(jnp.ones((9, 4, 5)), (3, 3), False)[0]
    rows, zero = jnp.ones((6, 4), jnp.uint8), jnp.zeros(1, jnp.uint8)

    def run(rows=rows, epilogue=None, stride=1, patch=3, **options):
        patches = IndexPatches(
            jnp.zeros((2, patch, patch), jnp.int32),
            jnp.zeros((0, 3, 3), jnp.int32),
            jnp.zeros((0, 1), jnp.int32),
            jnp.array([2, 0], jnp.int32),
        )
        return quantized_conv(rows, zero, patches, kernel, epilogue or plain(5), stride, **options)

    change = dataclasses.replace
    with pytest.raises(
        TypeError, match="the rows are float32, the kernel int8; expected uint8 and int8"
    ):
        run(rows.astype(jnp.float32))
    with pytest.raises(ValueError, match="takes 4 channels, the rows have 3"):
        run(rows[:, :3])
    with pytest.raises(ValueError, match="stride is 0, dilation 1"):
        run(stride=0)
    with pytest.raises(ValueError, match="the outputs are None and None"):
        run(epilogue=change(plain(5), out=None))
    with pytest.raises(ValueError, match="the outputs are 'int8' and None"):
        run(epilogue=change(plain(5), out="int8"))
    with pytest.raises(ValueError, match="a second output needs its scale and bias"):
        run(epilogue=change(plain(5), second="uint8"))
    with pytest.raises(ValueError, match="patches of 2 x 2 are smaller than the"):
        run(patch=2)
    with pytest.raises(ValueError, match=r"residual has shape \(3, 5\); expected \(2, 5\)"):
        run(epilogue=change(plain(5), residual=jnp.zeros((3, 5))))
    with pytest.raises(ValueError, match=r"a scale or bias has shape \(4,\); expected \(5,\)"):
        run(epilogue=plain(4))
    with pytest.raises(ValueError, match="XLA has no convolution by index"):
        run(implementation="xla")
