"""The handlers of indexed operations against numpy, and their errors."""

import copy
import dataclasses
from collections.abc import Mapping

import indexed_oracles
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from indexed_oracles import Units

import segblocks_jax as sb
from segblocks_jax.blocks.pad import layer_patches
from segblocks_jax.ops import packed_kernel
from segblocks_jax.ops.patches import BORDERS

BF16 = jnp.dtype("bfloat16")
EMPTY = np.zeros(0, np.float32)

pytestmark = pytest.mark.usefixtures("compiled")


def call(
    target: str,
    results: list[tuple[tuple[int, ...], np.dtype | type]],
    operands: list[np.ndarray],
    attributes: Mapping[str, int],
) -> list[np.ndarray]:
    types = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in results]
    values = {name: np.int64(value) for name, value in attributes.items()}
    function = jax.jit(lambda *arrays: jax.ffi.ffi_call(target, types)(*arrays, **values))
    return [np.asarray(result) for result in function(*map(jnp.asarray, operands))]


def assert_close(got: np.ndarray, expected: np.ndarray, sums: np.ndarray | float = 0.0) -> None:
    """Up to float32's rounding of sums; or to bfloat16's of results and an error of their sums."""
    if got.dtype == BF16:
        assert got.shape == expected.shape
        beyond = abs(got.astype(np.float64) - expected) - (sums + 2**-8 * abs(expected))
        assert (beyond <= 1e-5).all(), beyond.max()
    else:
        scale = np.abs(expected).max(initial=1.0)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * scale)


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution: channels in and out, window, and the units' patches."""

    c: int
    k: int
    kh: int = 3
    kw: int = 3
    stride: int = 1
    depthwise: bool = False
    high: tuple[int, int, int] = (3, 10, 10)
    low: tuple[int, int, int] = (2, 6, 6)
    counts: tuple[int, int] | None = None
    activation: int = 0
    winograd: bool = False
    dilation: int = 1
    pairs: bool = False  # Weights in pairs of inputs.
    extras: str = ""  # Of "s" scale, "b" bias, "r" residual, "2" second output, "o" no first one.

    def outputs(self) -> list[int]:
        eh, ew = (self.dilation * (k - 1) + 1 for k in (self.kh, self.kw))
        return [
            max((h - eh) // self.stride + 1, 0) * max((w - ew) // self.stride + 1, 0)
            for _, h, w in (self.high, self.low)
        ]

    def run(
        self, units: Units, kernel: np.ndarray, rng: np.random.Generator
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Returns what the handler gives and what is expected: out, out2, halos."""
        k, dtype = self.k, units.rows.dtype
        capacity = units.capacity(self.outputs())
        vectors = rng.standard_normal((4, k)).astype(np.float32)
        scale, bias, scale2, bias2 = (
            v if key in self.extras else EMPTY for v, key in zip(vectors, "sb22", strict=True)
        )
        residual = rng.standard_normal((capacity if "r" in self.extras else 0, k)).astype(dtype)
        weights = indexed_oracles.packed(kernel)
        if self.depthwise:
            weights = kernel.reshape(-1, k)
        if self.winograd:
            taps = np.tensordot(
                packed_kernel.winograd_forward(self.stride), kernel.reshape(9, self.c, k), 1
            )
            weights = indexed_oracles.packed(taps[None].astype(np.float32))
        if self.pairs:
            weights = np.asarray(packed_kernel.pack_kernel(jnp.asarray(kernel), pairs=True).weights)
        rows = (0 if "o" in self.extras else capacity, capacity if "2" in self.extras else 0)
        got = call(
            "segblocks_indexed_conv",
            [((rows[0], k), dtype), ((rows[1], k), dtype), (units.halos().shape, dtype)],
            [*units.operands, weights, scale, bias, residual, scale2, bias2],
            {
                "kh": self.kh,
                "kw": self.kw,
                "stride": self.stride,
                "dilation": self.dilation,
                "groups": self.c if self.depthwise else 1,
                "activation": self.activation,
                "winograd": int(self.winograd),
            },
        )
        y = self.sums(units, kernel)
        y = y * (scale if scale.size else 1) + (bias if bias.size else 0)
        y = y + (residual[: len(y)].astype(np.float64) if len(residual) else 0)
        y = [y, np.maximum(y, 0), np.clip(y, 0, 6)][self.activation]
        second = np.maximum(y * scale2 + bias2, 0) if scale2.size else y[:0]
        return got, [y[: min(len(y), rows[0])], second, units.halos().astype(np.float64)]

    def sums(self, units: Units, kernel: np.ndarray) -> np.ndarray:
        return indexed_oracles.conv(units, kernel, self.stride, self.depthwise, self.dilation)

    def sum_errors(
        self, units: Units, kernel: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """How far tensor cores may be from the two results; zeros on CPUs, which round each sum.

        They take eight products and the sum so far at a time, align them to the largest one, and cut off what is
        behind the last of its 24 bits: less than 2^-23 of it for each of the nine, and for their sum. The largest
        is hardly above five standard deviations of the whole sum, which has random signs.
        """
        y = np.zeros((1, 1))
        if jax.default_backend() == "gpu" and units.rows.dtype == BF16 and not self.depthwise:
            squares = dataclasses.replace(units, rows=np.square(units.rows.astype(np.float64)))
            squares.halos = lambda: np.square(units.halos().astype(np.float64))
            deviations = np.sqrt(self.sums(squares, np.square(kernel.astype(np.float64))))
            groups = -(-self.kh * self.kw * self.c // 8)
            y = 10 * groups * 2.0**-23 * 5 * deviations
        scale, _, scale2, _ = rng.standard_normal((4, self.k)).astype(np.float32)
        first = y * np.abs(scale if "s" in self.extras else 1.0)
        return first, first * np.abs(scale2)


CONVS = {
    "rgb_stem": Conv(3, 64, 7, 7, 2, high=(2, 22, 22), low=(3, 14, 14), extras="sb", activation=1),
    "one_tile": Conv(64, 64),
    "two_groups": Conv(32, 128, extras="sbr2", activation=1),
    "many_groups": Conv(24, 304, high=(9, 6, 6)),
    "three_panels": Conv(20, 42, extras="b", activation=2),
    "one_channel_in": Conv(1, 17, 5, 5),
    "prime_channels": Conv(19, 3, extras="r2o"),
    "prime_254": Conv(254, 19, extras="s"),
    "three_passes": Conv(520, 48, high=(2, 5, 5), low=(1, 4, 4)),
    "pointwise": Conv(64, 80, 1, 1, extras="2", activation=1),
    "pointwise_stride2": Conv(17, 33, 1, 1, 2),
    "wide_window": Conv(16, 16, 1, 9, 3, high=(2, 5, 17), low=(1, 4, 9)),
    "unit_of_one_pixel": Conv(20, 32, high=(40, 3, 3), low=(7, 3, 3)),
    "one_large_unit": Conv(8, 24, high=(1, 34, 430), low=(0, 0, 0)),
    "wide_rows": Conv(16, 8, high=(1, 4, 802), low=(0, 3, 3)),
    "no_high": Conv(17, 16, high=(0, 1, 1)),
    "part_live": Conv(33, 40, counts=(2, 1), extras="r"),
    "no_channels": Conv(0, 20, extras="b"),
    "none_live": Conv(33, 40, counts=(0, 0)),
    "depthwise": Conv(96, 96, 5, 5, depthwise=True, extras="sb", activation=2),
    "depthwise_prime": Conv(43, 43, depthwise=True, stride=2, extras="r2"),
    "depthwise_few": Conv(7, 7, 7, 7, depthwise=True, low=(3, 7, 8)),
}


WINOGRADS = {
    "one_tile": Conv(64, 64),
    "odd_sides": Conv(19, 42, high=(3, 9, 8), low=(2, 5, 7), extras="sbr2", activation=1),
    "two_groups": Conv(32, 128, extras="sb", activation=2),
    "many_groups": Conv(24, 304, high=(9, 6, 6), extras="r2o"),
    "unit_of_one_pixel": Conv(20, 32, high=(40, 3, 3), low=(7, 3, 3)),
    "one_large_unit": Conv(8, 24, high=(1, 34, 430), low=(0, 0, 0)),
    "prime_channels": Conv(254, 3, high=(3, 3, 4)),
    "no_high": Conv(17, 16, high=(0, 1, 1)),
    "part_live": Conv(33, 40, counts=(2, 1), extras="r"),
    "none_live": Conv(33, 40, counts=(0, 0)),
    "no_channels": Conv(0, 20, extras="b"),
    "one_channel": Conv(1, 1),
    "large_squares": Conv(40, 70, high=(9, 14, 22), low=(40, 6, 10), extras="sbr2", activation=1),
    "large_high": Conv(24, 304, high=(5, 10, 10), low=(9, 4, 5), extras="b2o"),
    "large_low": Conv(3, 19, high=(7, 9, 10), low=(8, 10, 10), counts=(5, 7), extras="r"),
}


@pytest.mark.family
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", WINOGRADS)
def test_conv_of_transformed_kernels(name: str, stride: int, rng: np.random.Generator) -> None:
    check(dataclasses.replace(WINOGRADS[name], stride=stride, winograd=True), "float32", rng)


@pytest.mark.family
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CONVS)
def test_conv(name: str, dtype: str, rng: np.random.Generator) -> None:
    check(CONVS[name], dtype, rng)


def check(conv: Conv, dtype: str, rng: np.random.Generator) -> None:
    units = Units.random(
        rng, conv.c, (conv.high, conv.low), counts=conv.counts, dtype=jnp.dtype(dtype)
    )
    depth = 1 if conv.depthwise else conv.c
    fan_in = conv.kh * conv.kw * depth
    kernel = rng.standard_normal((conv.kh, conv.kw, depth, conv.k)) / np.sqrt(max(fan_in, 1))
    kernel = kernel.astype(units.rows.dtype)
    errors = conv.sum_errors(units, kernel, copy.deepcopy(rng))
    got, expected = conv.run(units, kernel, rng)
    live = units.means[:, 0] >= 0
    for result, value, error in zip(got[:2], expected[:2], errors, strict=True):
        assert_close(result[: len(value)], value, error if len(value) else 0.0)
    if len(expected[0]) or len(expected[1]):
        assert_close(got[2][live], expected[2][live])


# What the unit of tiles meets: chunks cut along rows and columns, units of whole tiles and of less.
TILED = {
    "copied_rows": Conv(33, 70, high=(2, 9, 79), extras="sbr2", activation=1),
    "copied_columns": Conv(64, 64, 3, 3, 2, high=(3, 17, 17), low=(5, 9, 9), extras="b"),
    "copied_windows": Conv(40, 20, high=(9, 4, 4), low=(7, 3, 4), extras="r"),
    "merged": Conv(3, 20, 7, 7, 2, high=(2, 21, 149), low=(2, 13, 21), activation=2),
    "merged_dilated": Conv(5, 33, 3, 5, 2, high=(2, 19, 29), low=(1, 9, 11), dilation=2),
    "dilated": Conv(32, 48, 3, 1, 1, high=(2, 40, 20), low=(2, 36, 3), dilation=17),
    "many_weights": Conv(96, 500, high=(1, 8, 9), low=(3, 4, 4)),
    "long_rows": Conv(32, 16, 1, 1, high=(1, 2, 900), low=(0, 1, 1), extras="o2"),
}


@pytest.mark.family
@pytest.mark.parametrize("pairs", [True, False])
@pytest.mark.parametrize("name", TILED | {k: v for k, v in CONVS.items() if not v.depthwise})
def test_bfloat16_conv_of_every_set(
    name: str, pairs: bool, loops: str, rng: np.random.Generator
) -> None:
    """Weights in pairs or not, whether the loops want them so or not."""
    check(dataclasses.replace((TILED | CONVS)[name], pairs=pairs), "bfloat16", rng)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ["odd_sides", "large_low"])
def test_bfloat16_conv_of_transformed_kernels(
    name: str, stride: int, loops: str, rng: np.random.Generator
) -> None:
    """Weights are float32."""
    conv = dataclasses.replace(WINOGRADS[name], stride=stride, winograd=True)
    check(conv, "bfloat16", rng)


def large_squares(c: int, k: int) -> Conv:
    """Units of 8 x 8 outputs, enough of them for squares of 4 x 4."""
    return Conv(c, k, winograd=True, high=(6, 10, 10), low=(0, 3, 3))


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_large_squares_within_their_rounding(
    scale: float, loops: str, rng: np.random.Generator
) -> None:
    """What roundings of every step, none in the other's favor, make of magnitudes at the points 0, +-1, inf, +-2."""
    forward = np.array(
        [
            [1, 0, -5 / 4, 0, 1 / 4, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, 4, 0, -5, 0, 1],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
        ]
    )
    inverse = np.array(
        [
            [1, -1 / 3, -1 / 3, 0, 1 / 3, 1 / 3],
            [0, -1 / 3, 1 / 3, 0, 2 / 3, -2 / 3],
            [0, -1 / 3, -1 / 3, 0, 4 / 3, 4 / 3],
            [0, -1 / 3, 1 / 3, 1, 8 / 3, -8 / 3],
        ]
    )
    conv = large_squares(80, 33)
    units = Units.random(rng, conv.c, (conv.high, conv.low))
    units.rows *= np.float32(scale)
    kernel = (rng.standard_normal((3, 3, conv.c, conv.k)) / 27).astype(np.float32)
    taps = (packed_kernel.winograd_forward(1) @ kernel.astype(np.float64).reshape(9, -1)).reshape(
        6, 6, conv.c, conv.k
    )
    squares = np.lib.stride_tricks.sliding_window_view(units.gathered()[0], (6, 6), (1, 2))
    squares = squares[:, ::4, ::4]  # (m, 2, 2, c, 6, 6)
    points = np.einsum("ai,bj,mhwcij->mhwcab", forward, forward, squares)
    values = np.einsum("ia,jb,mhwcab,abck->mhwijk", inverse, inverse, points, taps, optimize=True)
    sizes = np.einsum("ai,bj,mhwcij->mhwcab", abs(forward), abs(forward), abs(squares))
    sizes = np.einsum(
        "ia,jb,mhwcab,abck->mhwijk", abs(inverse), abs(inverse), sizes, abs(taps), optimize=True
    )
    values, sizes = (x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, conv.k) for x in (values, sizes))
    (got, _, _), (expected, _, _) = conv.run(units, kernel, rng)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    # The longest path: weights 1, inputs 2 x 4, products 64, their chains 2, outputs 2 x 6, scale 2.
    steps = 1 + 8 + 64 + 2 + 12 + 2
    assert (np.abs(got - expected) <= steps * 2.0**-24 * sizes).all()
    assert np.sqrt(np.mean((got - expected) ** 2)) <= 2e-6 * expected.std()


def test_large_squares_spread_nan_within_themselves(loops: str, rng: np.random.Generator) -> None:
    conv = large_squares(16, 16)
    units = Units.random(rng, conv.c, (conv.high, conv.low), num_rows=700)
    units.patches[0][:] = np.arange(600).reshape(6, 10, 10)
    units.rows[233] = np.nan  # Of unit 2, row 3, column 3.
    (out, _, _), (expected, _, _) = conv.run(units, np.ones((3, 3, 16, 16), np.float32), rng)
    assert np.isnan(out[np.isnan(expected)]).all()
    unknown = np.isnan(out).any(-1).reshape(6, 8, 8)
    assert unknown[2, :4, :4].any()
    unknown[2, :4, :4] = False
    assert not unknown.any()


@pytest.mark.parametrize("winograd", [False, True])
def test_large_conv_is_the_same_every_time(winograd: bool, rng: np.random.Generator) -> None:
    conv = Conv(48, 200, winograd=winograd, high=(30, 12, 12), low=(40, 8, 8))
    units = Units.random(rng, conv.c, (conv.high, conv.low), num_rows=2000, halos=500)
    kernel = rng.standard_normal((3, 3, 48, 200)).astype(np.float32)
    got, expected = conv.run(units, kernel, np.random.default_rng(1))
    assert_close(got[0], expected[0])
    for _ in range(10):
        again, _ = conv.run(units, kernel, np.random.default_rng(1))
        np.testing.assert_array_equal(again[0], got[0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_conv_keeps_nan_and_zero_rows_apart(
    dtype: str, loops: str, rng: np.random.Generator
) -> None:
    rows = np.full((3, 16), np.nan, jnp.dtype(dtype))
    rows[0] = 1
    patch = np.array([[[0, -1]], [[1, 0]]], np.int32)
    units = Units(rows, np.zeros((0, 4), np.int32), (patch, patch[:0]), (2, 0))
    conv = Conv(16, 16, 1, 2, high=(2, 1, 2), low=(0, 1, 2), activation=1)
    (out, _, _), _ = conv.run(units, np.ones((1, 2, 16, 16), rows.dtype), rng)
    assert (out[0] == 16).all()
    assert np.isnan(out[1]).all()


@pytest.mark.parametrize("stride", [1, 2])
def test_winograd_keeps_nan_in_its_windows(stride: int, rng: np.random.Generator) -> None:
    """Outputs of one square share products, but none that hold another window's inputs."""
    rows = np.ones((26, 16), np.float32)
    side = stride + 3
    for at in range(side * side):
        rows[25] = np.nan
        patch = np.arange(side * side, dtype=np.int32).reshape(1, side, side)
        patch.reshape(-1)[at] = 25
        units = Units(rows, np.zeros((0, 4), np.int32), (patch, patch[:0]), (1, 0))
        conv = Conv(16, 16, stride=stride, winograd=True, high=(1, side, side), low=(0, 3, 3))
        (out, _, _), (expected, _, _) = conv.run(units, np.ones((3, 3, 16, 16), np.float32), rng)
        np.testing.assert_array_equal(np.isnan(out), np.isnan(expected))


@dataclasses.dataclass(frozen=True)
class Gradient:
    """The gradient of a depthwise kernel: channels, window, and the units' patches."""

    c: int
    size: tuple[int, int] = (3, 3)
    stride: int = 1
    dilation: int = 1
    high: tuple[int, int, int] = (3, 10, 10)
    low: tuple[int, int, int] = (2, 7, 6)
    counts: tuple[int, int] | None = None

    def draw(self, rng: np.random.Generator) -> tuple[Units, np.ndarray]:
        units = Units.random(rng, self.c, (self.high, self.low), counts=self.counts)
        outputs = []
        for _, *sides in (self.high, self.low):
            extents = [self.dilation * (k - 1) + 1 for k in self.size]
            pairs = zip(sides, extents, strict=True)
            ho, wo = (max((side - e) // self.stride + 1, 0) for side, e in pairs)
            outputs.append(ho * wo)
        return units, rng.standard_normal((units.capacity(outputs), self.c)).astype(np.float32)

    def run(self, units: Units, cotangents: np.ndarray) -> np.ndarray:
        kh, kw = self.size
        kernel, _ = call(
            "segblocks_depthwise_gradient",
            [((kh * kw, self.c), np.float32), (units.halos().shape, np.float32)],
            [*units.operands, cotangents],
            {"kh": kh, "kw": kw, "stride": self.stride, "dilation": self.dilation},
        )
        return kernel.reshape(kh, kw, self.c)


@pytest.mark.family
@pytest.mark.parametrize(
    "case",
    [
        Gradient(96),
        Gradient(43, (5, 5), 2),
        Gradient(7, (7, 7), low=(3, 7, 8)),
        Gradient(16, (1, 3), dilation=3, low=(2, 7, 8)),
        Gradient(40, (3, 3), 2, dilation=2, high=(2, 9, 11)),
        Gradient(33, (2, 4), counts=(2, 1)),
        Gradient(20, counts=(0, 0)),
        Gradient(1, high=(0, 1, 1)),
        Gradient(24, (5, 5), high=(1, 34, 430), low=(0, 0, 0)),
    ],
    ids=str,
)
def test_depthwise_gradient(case: Gradient, rng: np.random.Generator) -> None:
    units, cotangents = case.draw(rng)
    expected = indexed_oracles.depthwise_gradient(
        units, cotangents, case.size, case.stride, case.dilation
    )
    assert_close(case.run(units, cotangents), expected)


def test_large_depthwise_gradient_is_the_same_every_time(rng: np.random.Generator) -> None:
    """The order of the sums doesn't depend on which thread is first."""
    case = Gradient(96, (5, 5), high=(30, 36, 36), low=(40, 8, 8))
    units, cotangents = case.draw(rng)
    first = case.run(units, cotangents)
    for _ in range(10):
        np.testing.assert_array_equal(case.run(units, cotangents), first)


@pytest.mark.family
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("window", "stride", "channels"), [(3, 2, 64), (2, 2, 7), (3, 1, 130)])
def test_max_pool(
    window: int, stride: int, channels: int, dtype: str, rng: np.random.Generator
) -> None:
    sizes = ((3, 9, 8), (2, 5, 5))
    units = Units.random(rng, channels, sizes, counts=(3, 1), dtype=jnp.dtype(dtype))
    outputs = [((h - window) // stride + 1) * ((w - window) // stride + 1) for _, h, w in sizes]
    out, _ = call(
        "segblocks_indexed_max_pool",
        [((units.capacity(outputs), channels), units.rows.dtype), ((5, channels), dtype)],
        units.operands,
        {"window": window, "stride": stride},
    )
    expected = indexed_oracles.max_pool(units, window, stride)
    assert_close(out[: len(expected)], expected)


@pytest.mark.family
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("channels", "extras"), [(128, ""), (19, "r"), (64, "r2"), (3, "2")])
def test_upsample2(channels: int, extras: str, dtype: str, rng: np.random.Generator) -> None:
    sizes = ((3, 6, 5), (2, 3, 4))
    units = Units.random(rng, channels, sizes, counts=(2, 2), dtype=jnp.dtype(dtype))
    capacity = units.capacity([4 * (h - 2) * (w - 2) for _, h, w in sizes])
    residual = rng.standard_normal((capacity if "r" in extras else 0, channels)).astype(dtype)
    scale2, bias2 = rng.standard_normal((2, channels if "2" in extras else 0)).astype(np.float32)
    out, _ = call(
        "segblocks_indexed_upsample2",
        [((capacity, channels), units.rows.dtype), ((5, channels), units.rows.dtype)],
        [*units.operands, residual, scale2, bias2],
        {},
    )
    y = indexed_oracles.upsample2(units)
    y = y + (residual[: len(y)].astype(np.float64) if len(residual) else 0)
    assert_close(out[: len(y)], np.maximum(y * scale2 + bias2, 0) if scale2.size else y)


@pytest.mark.family
@pytest.mark.parametrize("border", [0, 1, 2])
@pytest.mark.parametrize(
    ("block", "factor", "padding"),
    [(8, 2, 0), (8, 2, 1), (8, 2, 2), (8, 2, 3), (4, 4, 1), (6, 3, 2), (2, 2, 1), (3, 1, 1)],
)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_index_tables(
    share: float, block: int, factor: int, padding: int, border: int, rng: np.random.Generator
) -> None:
    mask = rng.random((2, 3, 4)) < share
    got = index_tables(mask, block, factor, padding, border)
    packing = oracles.Packing(mask, block, factor)
    expected = indexed_oracles.index_tables(packing, padding, border)
    for result, value in zip(got, expected, strict=True):
        np.testing.assert_array_equal(result, value)


LAYERS = ((8, 1, 0), (8, 3, 1), (4, 1, 2), (4, 0, 0), (2, 2, 0))  # The last reaches two cells.


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_tables_of_several_layers(share: float, rng: np.random.Generator) -> None:
    mask = rng.random((2, 3, 4)) < share
    grid = sb.BlockGrid.from_mask(mask, int(mask.sum()), mask.astype(np.float32))
    layers = [(block, padding, BORDERS[border]) for block, padding, border in LAYERS]
    for (block, padding, border), got in zip(
        LAYERS, layer_patches(grid, layers, implementation="ffi"), strict=True
    ):
        packing = oracles.Packing(mask, block, 2)
        expected = indexed_oracles.index_tables(packing, padding, border)
        for result, value in zip((got.high, got.low, got.means), expected, strict=True):
            np.testing.assert_array_equal(result, value)


@pytest.mark.parametrize(
    "changed",
    [{"paddings": [1]}, {"borders": [0, 0, 0]}, {"block_sizes": [8]}, {"results": 5}],
    ids=lambda changed: next(iter(changed)),
)
def test_layers_and_tables_that_do_not_match(changed: dict) -> None:
    values = {"block_sizes": [8, 8], "paddings": [1, 1], "borders": [0, 0], "results": 6} | changed
    results = [((1, 10, 10), np.int32), ((0, 6, 6), np.int32), ((12, 4), np.int32)] * 2
    operands = [np.ones((1, 1, 1), bool), np.zeros((1, 1, 1), np.int32)]
    operands += [np.zeros(1, np.int32), np.zeros(0, np.int32)]
    attributes = {k: np.asarray(v, np.int64) for k, v in values.items() if k != "results"}
    with pytest.raises(
        Exception, match=r"'block_sizes': got \d layers, .* expected 1 to 16 layers"
    ):
        call(
            "segblocks_layer_tables",
            results[: values["results"]],
            operands,
            attributes | {"low_factor": 2},
        )


def index_tables(
    mask: np.ndarray, block: int, factor: int, padding: int, border: int
) -> list[np.ndarray]:
    flat = mask.reshape(-1)
    cells = np.concatenate([np.flatnonzero(flat), np.flatnonzero(~flat)]).astype(np.int32)
    slots = np.argsort(cells).astype(np.int32).reshape(mask.shape)
    num_high, low_side = int(flat.sum()), block // factor
    wide, low_wide = block + 2 * padding, low_side + 2 * padding
    ring = low_side**2 - max(low_side - 2 * padding, 0) ** 2
    return call(
        "segblocks_index_tables",
        [
            ((num_high, wide, wide), np.int32),
            ((flat.size - num_high, low_wide, low_wide), np.int32),
            ((num_high * ring, factor**2), np.int32),
        ],
        [mask, slots, cells[:num_high], cells[num_high:]],
        {"block_size": block, "low_factor": factor, "padding": padding, "border": border},
    )
