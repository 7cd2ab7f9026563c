"""The indexed operations: compiled against their definitions, and these against numpy; precision, transformations."""

import dataclasses
import re

import indexed_oracles
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import CASES, SMALL
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from indexed_oracles import Units

import segblocks_jax as sb
from segblocks_jax.blocks.pad import index_patches
from segblocks_jax.nn import BlockOptions, max_pool, upsample2
from segblocks_jax.ops import extension
from segblocks_jax.ops.image_conv import image_conv
from segblocks_jax.ops.indexed_conv import Epilogue, indexed_conv
from segblocks_jax.ops.max_pool import indexed_max_pool
from segblocks_jax.ops.packed_kernel import pack_kernel, pairs_pay, winograd_stride
from segblocks_jax.ops.patches import IndexPatches, gather, image_patches
from segblocks_jax.ops.upsample2 import indexed_upsample2

pytestmark = pytest.mark.usefixtures("compiled")


def blocks_of(name: str, channels: int, dtype: str = "float32") -> sb.DualRes:
    case = dataclasses.replace(CASES[name], channels=channels)
    return sb.split(case.image(dtype), case.mask(), low_factor=case.low_factor)


def assert_close(got: jax.Array, expected: jax.Array, tolerance: float) -> None:
    """Within `tolerance` of the largest value."""
    assert got.shape == expected.shape
    got, expected = (np.asarray(x, np.float64) for x in (got, expected))
    scale = np.abs(expected).max(initial=0.0)
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * scale)


# Packed kernels


@pytest.mark.parametrize("stride", [1, 2])
def test_transformed_kernels_keep_the_kernel(stride: int, rng: np.random.Generator) -> None:
    weights = jnp.asarray(rng.standard_normal((3, 3, 19, 42)), jnp.float32)
    plain, transformed = pack_kernel(weights), pack_kernel(weights, winograd=stride)
    assert (transformed.channels, transformed.features) == (19, 42)
    assert_close(transformed.plain().weights, plain.weights, 1e-6)
    assert transformed.plain().winograd == 0
    rows = jnp.asarray(rng.standard_normal((24, 19)), jnp.float32)
    patches = image_patches((1, 4, 6), (1, 1))
    got, expected = (
        indexed_conv(rows, patches, kernel, stride, implementation="reference")[0]
        for kernel in (transformed, plain)
    )
    assert_close(got, expected, 1e-6)


def test_gpus_get_plain_kernels_from_exports() -> None:
    """One program for several platforms, which share their weights."""
    kernel = pack_kernel(jnp.ones((3, 3, 16, 16), jnp.float32), winograd=1)
    patches = image_patches((1, 4, 6), (1, 1))
    run = jax.jit(lambda rows: indexed_conv(rows, patches, kernel, implementation="ffi")[0])
    for platform, attribute in (("cpu", "winograd = 1"), ("cuda", "winograd = 0")):
        lowered = run.trace(jnp.ones((24, 16))).lower(lowering_platforms=(platform,))
        assert set(re.findall(r"winograd = \d", lowered.as_text())) == {attribute}


@pytest.mark.parametrize("packing", [{"pairs": True}, {"winograd": 1}])
def test_gpus_get_bfloat16_kernels_from_exports(packing: dict[str, int]) -> None:
    kernel = pack_kernel(jnp.ones((3, 3, 16, 16), jnp.bfloat16), **packing)
    patches = image_patches((1, 4, 6), (1, 1))
    run = jax.jit(lambda rows: indexed_conv(rows, patches, kernel, implementation="ffi")[0])
    operands = {}
    for platform in ("cpu", "cuda"):
        lowered = run.trace(jnp.ones((24, 16), jnp.bfloat16)).lower(lowering_platforms=(platform,))
        (call,) = re.findall(
            r"custom_call @segblocks_indexed_conv.*: \((.*)\) ->", lowered.as_text()
        )
        operands[platform] = call.split(", ")[5]
    assert operands["cuda"] == "tensor<1x144x16xbf16>"
    own = "1x96x16x2xbf16" if "pairs" in packing else "1x576x16xf32"
    assert operands["cpu"] == f"tensor<{own}>"


@pytest.mark.parametrize(("size", "channels"), [((7, 7), 3), ((3, 3), 24), ((5, 1), 40)])
def test_pairs_keep_the_kernel(
    size: tuple[int, int], channels: int, rng: np.random.Generator
) -> None:
    """Taps are merged in the first case alone: (7, 21) for (49, 3)."""
    weights = jnp.asarray(rng.standard_normal((*size, channels, 19)), jnp.bfloat16)
    plain, pairs = pack_kernel(weights), pack_kernel(weights, pairs=True)
    assert (pairs.channels, pairs.features) == (channels, 19)
    steps = {3: 7, 24: 9, 40: 10}[channels]
    assert pairs.weights.shape == (2, 16 * steps, 16, 2)
    np.testing.assert_array_equal(pairs.plain().weights, plain.weights)
    assert pairs.plain().pairs == 0
    rows = jnp.asarray(rng.standard_normal((12 * 9, channels)), jnp.bfloat16)
    patches = image_patches((1, 12, 9), (size[0] // 2, size[1] // 2))
    got, expected = (
        indexed_conv(rows, patches, kernel, implementation="reference")[0]
        for kernel in (pairs, plain)
    )
    np.testing.assert_array_equal(got, expected)


def test_winograd_stride() -> None:
    def stride_of(*shape: int, stride: int = 1, groups: int = 1, dtype: str = "float32") -> int:
        return winograd_stride(jnp.zeros(shape, dtype), stride, groups)

    assert [stride_of(3, 3, 16, 1, stride=stride) for stride in (1, 2, 3)] == [1, 2, 0]
    assert stride_of(3, 3, 15, 64) == stride_of(5, 5, 64, 64) == stride_of(1, 1, 64, 64) == 0
    assert stride_of(3, 3, 1, 64, groups=64) == stride_of(3, 3, 64, 64, dtype="float16") == 0


def test_bfloat16_kernels_are_packed_for_the_loops() -> None:
    """In pairs where these are multiplied, else transformed: then products are float32."""
    kernel = jnp.zeros((3, 3, 16, 4), jnp.bfloat16)
    expected = {"base": (1, False), "avx512_bf16_standin": (0, True), "amx_standin": (0, True)}
    for name, packing in expected.items():
        with extension.using_cpu_loops(name):
            assert (winograd_stride(kernel, 1), pairs_pay(kernel)) == packing
            assert (
                winograd_stride(kernel.astype("float32"), 1),
                pairs_pay(kernel.astype("float32")),
            ) == (1, False)
            assert not pairs_pay(jnp.zeros((3, 3, 1, 4), jnp.bfloat16), 4)
            with extension.using("xla"):
                assert not pairs_pay(kernel)


# Where pixels lie


@pytest.mark.family(of=("border", "padding"))
@pytest.mark.parametrize("border", ["zero", "image", "block"])
@pytest.mark.parametrize("padding", [0, 1, 2, 3])
@pytest.mark.parametrize("name", SMALL)
def test_patches_of_both_implementations(name: str, padding: int, border: str) -> None:
    """Ghosts that nobody reads may differ; what is gathered may not."""
    blocks = blocks_of(name, 3)
    if padding > blocks.block_size:
        pytest.skip("padding larger than a block")
    results = []
    for implementation in ("ffi", "reference"):
        patches = index_patches(
            blocks.grid, blocks.block_size, padding, border, implementation=implementation
        )
        results.append([*gather(blocks.pixels, patches), patches.high, patches.low])
        assert [x.dtype for x in jax.tree.leaves(patches)] == [jnp.int32] * 4
    for compiled, reference in zip(*results, strict=True):
        np.testing.assert_array_equal(compiled, reference)


@pytest.mark.family("two_images", "prime_grid")
@pytest.mark.parametrize("name", SMALL)
def test_gathered_patches_are_padded_blocks(name: str) -> None:
    blocks = blocks_of(name, 3)
    patches = index_patches(blocks.grid, blocks.block_size, 1)
    packing = oracles.Packing(CASES[name].mask(), CASES[name].block_size, CASES[name].low_factor)
    for high, got in zip((True, False), gather(blocks.pixels, patches), strict=True):
        expected = oracles.pad(packing, high, (1, 1)).apply(np.asarray(blocks.pixels))
        np.testing.assert_allclose(got, expected.reshape(got.shape), atol=1e-6)


# Compiled against the definition


def epilogues(pixels: int, features: int, dtype: str, rng: np.random.Generator) -> list[Epilogue]:
    def vector() -> jax.Array:
        return jnp.asarray(rng.standard_normal(features), jnp.float32)

    residual = jnp.asarray(rng.standard_normal((pixels, features)), dtype)
    return [
        Epilogue(),
        Epilogue(bias=vector(), activation="relu6"),
        Epilogue(vector(), vector(), residual, activation="relu"),
        Epilogue(vector(), vector(), residual, (vector(), vector()), "relu"),
        Epilogue(residual=residual, following=(vector(), vector()), keep=False),
    ]


KERNELS = {"1x1": (1, 1, 1), "3x3": (3, 1, 1), "3x3 s2": (3, 2, 1), "5x5 depthwise": (5, 1, 0)}
TRANSFORMED = {"3x3 winograd": (3, 1, 1), "3x3 s2 winograd": (3, 2, 1)}


@pytest.mark.family(of=("features",))
@pytest.mark.parametrize("features", [3, 19, 42, 64])
@pytest.mark.parametrize("name", KERNELS | TRANSFORMED)
def test_epilogues(name: str, features: int, rng: np.random.Generator) -> None:
    size, stride, one_group = (KERNELS | TRANSFORMED)[name]
    channels = 19 if one_group else features
    blocks = blocks_of("two_images", channels)
    patches = index_patches(blocks.grid, blocks.block_size, size // 2)
    shape = (size, size, channels if one_group else 1, features)
    weights = jnp.asarray(rng.standard_normal(shape) * 0.2, jnp.float32)
    plain = pack_kernel(weights, 1 if one_group else features)
    kernel = pack_kernel(weights, winograd=stride) if name in TRANSFORMED else plain
    pixels = patches.num_outputs((size, size), stride)
    for epilogue in epilogues(pixels, features, "float32", rng):
        compiled, reference = (
            indexed_conv(
                blocks.pixels, patches, kernel, stride, epilogue, implementation=implementation
            )
            for kernel, implementation in ((kernel, "ffi"), (plain, "reference"))
        )
        for got, expected in zip(compiled, reference, strict=True):
            assert (got is None) == (expected is None)
            if expected is not None:
                assert_close(got, expected, 1e-5)


@pytest.mark.family(of=("loops",))
@pytest.mark.parametrize("channels", [3, 64, 254])
def test_bfloat16_within_its_rounding_of_float64(
    channels: int, loops: str, rng: np.random.Generator
) -> None:
    blocks = blocks_of("two_images", channels, "bfloat16")
    kernel = jnp.asarray(rng.standard_normal((3, 3, channels, 19)) * 0.1, jnp.bfloat16)
    packing = oracles.Packing(CASES["two_images"].mask(), 8)
    for implementation in ("ffi", "reference"):
        got = sb.block_conv(blocks, kernel, implementation=implementation)
        for high, part in ((True, got.high), (False, got.low)):
            maps = oracles.pad(packing, high, (1, 1)).apply(np.asarray(blocks.pixels, np.float64))
            # A halo, the mean of four pixels, is rounded to bfloat16 as block_pad rounds it.
            maps = np.asarray(jnp.asarray(maps, jnp.float32).astype(jnp.bfloat16), np.float64)
            side = part.shape[1] + 2
            maps = maps.reshape(-1, side, side, channels)
            expected = oracles.convolve(maps, np.asarray(kernel, np.float64), 1, 1)
            error = np.abs(np.asarray(part, np.float64) - expected)
            assert (error <= np.abs(expected) * 2.0**-8 + 1e-5 * np.abs(expected).max()).all()


@pytest.mark.parametrize("size", [(3, 1), (1, 3), (3, 3)])
@pytest.mark.parametrize("channels", [3, 32])
def test_dilated_strides(
    compiled: None, size: tuple[int, int], channels: int, rng: np.random.Generator
) -> None:
    """Rows of few channels are copied, those of many are not; along an axis of one tap, too."""
    image = jnp.asarray(rng.standard_normal((1, 12, 14, channels)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((*size, channels, 5)), jnp.float32)
    padding = tuple(3 * (k - 1) // 2 for k in size)
    got, expected = (
        image_conv(image, kernel, 2, padding, dilation=3, implementation=name)
        for name in ("ffi", "xla")
    )
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 2),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    low_size=st.integers(1, 4),
    bits=st.integers(0, 2**18 - 1),
    channels=st.sampled_from([1, 3, 16, 17, 42]),
    features=st.sampled_from([1, 5, 16, 33, 70]),
    size=st.sampled_from([1, 3, 5, 7]),
    stride=st.sampled_from([1, 2]),
)
def test_any_grid_and_shape(
    n: int,
    rows: int,
    columns: int,
    low_size: int,
    bits: int,
    channels: int,
    features: int,
    size: int,
    stride: int,
) -> None:
    side = 2 * low_size
    padding = size // 2
    if low_size % stride or padding > side:
        return
    rng = np.random.default_rng(bits)
    cells = n * rows * columns
    mask = (np.arange(cells) < 0) | ((bits >> np.arange(cells)) & 1 == 1)
    grid = sb.BlockGrid.from_mask(mask.reshape(n, rows, columns))
    pixels = rng.standard_normal((grid.num_pixels(side), channels))
    blocks = sb.DualRes(jnp.asarray(pixels, jnp.float32), grid)
    kernel = jnp.asarray(rng.standard_normal((size, size, channels, features)), jnp.float32)
    got, expected = (
        sb.block_conv(blocks, kernel, stride, padding, implementation=name).pixels
        for name in ("ffi", "xla")
    )
    assert_close(got, expected, 1e-5)
    if size == 3:
        transformed = pack_kernel(kernel, winograd=stride)
        patches = index_patches(grid, side, padding)
        got, _ = indexed_conv(blocks.pixels, patches, transformed, stride, implementation="ffi")
        assert_close(got, expected, 1e-5)


@pytest.mark.slow
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    n=st.integers(1, 2),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    low_size=st.integers(1, 24),
    bits=st.integers(0, 2**18 - 1),
    channels=st.sampled_from([1, 3, 17, 32, 42, 96]),
    features=st.sampled_from([1, 16, 33, 70]),
    size=st.sampled_from([(1, 1), (3, 3), (1, 3), (7, 7), (5, 1)]),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 3),
    pairs=st.booleans(),
)
def test_bfloat16_of_any_grid_and_shape(
    loops: str,
    n: int,
    rows: int,
    columns: int,
    low_size: int,
    bits: int,
    channels: int,
    features: int,
    size: tuple[int, int],
    stride: int,
    dilation: int,
    pairs: bool,
) -> None:
    """Against float64, on every set of loops."""
    side, padding = 2 * low_size, max(size) // 2 * dilation
    if padding > side:
        return
    rng = np.random.default_rng(bits)
    cells = n * rows * columns
    mask = ((bits >> np.arange(cells)) & 1 == 1).reshape(n, rows, columns)
    grid = sb.BlockGrid.from_mask(mask)
    patches = index_patches(grid, side, padding)
    pixels = jnp.asarray(rng.standard_normal((grid.num_pixels(side), channels)), jnp.bfloat16)
    kernel = jnp.asarray(rng.standard_normal((*size, channels, features)), jnp.bfloat16)
    packed = pack_kernel(kernel, pairs=pairs)
    got, _ = indexed_conv(pixels, patches, packed, stride, dilation=dilation, implementation="ffi")
    high, low = np.asarray(patches.high), np.asarray(patches.low)
    counts = (len(high), len(low))
    units = Units(np.asarray(pixels), np.asarray(patches.means), (high, low), counts)
    expected = indexed_oracles.conv(units, np.asarray(kernel), stride, False, dilation)
    error = np.abs(np.asarray(got, np.float64) - expected)
    bound = np.abs(expected) * 2.0**-8 + 1e-5 * np.abs(expected).max(initial=1.0)
    assert (error <= bound).all()


def test_fewer_live_units_than_capacity(rng: np.random.Generator) -> None:
    """One executable serves every count; low pixels follow the last live high one."""
    blocks = blocks_of("two_images", 4)
    patches = index_patches(blocks.grid, blocks.block_size, 1)
    kernel = pack_kernel(jnp.asarray(rng.standard_normal((3, 3, 4, 5)), jnp.float32))
    full, _ = indexed_conv(blocks.pixels, patches, kernel, implementation="reference")
    area, low_area, high = 64, 16, blocks.grid.num_high
    for live in ((3, 2), (0, 4), (high, 0)):
        counts = jnp.asarray(np.array(live, np.int32))
        some = dataclasses.replace(patches, counts=counts)
        for implementation in ("ffi", "reference"):
            got, _ = indexed_conv(blocks.pixels, some, kernel, implementation=implementation)
            first, second = live[0] * area, live[1] * low_area
            assert got.shape == full.shape
            assert_close(got[:first], full[:first], 1e-5)
            low = full[high * area :][:second]
            assert_close(got[first : first + second], low, 1e-5)


@pytest.mark.family
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["two_images", "prime_grid", "all_high", "all_low", "factor4"])
def test_pooling(name: str, dtype: str) -> None:
    blocks = blocks_of(name, 19, dtype)
    patches = index_patches(blocks.grid, blocks.block_size, 1)
    expected = max_pool(blocks, 3, 2, 1).pixels
    for implementation in ("ffi", "xla"):
        got = indexed_max_pool(blocks.pixels, patches, 3, 2, implementation=implementation)
        # The mean of 4 x 4 pixels depends on the order of its sum.
        rtol = 1e-6 if name == "factor4" else 0
        np.testing.assert_allclose(
            np.asarray(got, np.float32), np.asarray(expected, np.float32), rtol=rtol
        )


@pytest.mark.family(of=("loops",))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pooling_of_any_number(dtype: str, loops: str) -> None:
    """Of each pair of special values, in vectors and in what is left of them; NaN of either sign stays NaN."""
    special = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1.5, -1.5, 3e38, -3e38])
    special = np.concatenate([special, [np.copysign(np.nan, -1)]])
    channels = 75
    values = np.stack([np.resize(np.roll(special, k), channels) for k in range(len(special))])
    pixels = jnp.asarray(values, jnp.float32).astype(dtype)
    first = jnp.repeat(pixels[:1], len(pixels), 0)
    squares = jnp.stack([first, pixels, pixels, first], 1).reshape(-1, channels)
    patches = image_patches((len(pixels), 2, 2), (0, 0))
    got = indexed_max_pool(squares, patches, 2, 1, implementation="ffi")
    expected = np.maximum(np.asarray(first, np.float32), np.asarray(pixels, np.float32))
    np.testing.assert_array_equal(np.asarray(got, np.float32), expected)


@pytest.mark.family(of=("interpolation",))
@pytest.mark.parametrize("interpolation", ["halo", "block"])
@pytest.mark.parametrize("name", ["two_images", "prime_grid", "one_pixel_low", "all_high"])
def test_upsampling(name: str, interpolation: str, rng: np.random.Generator) -> None:
    blocks = blocks_of(name, 19)
    border = "image" if interpolation == "halo" else "block"
    patches = index_patches(blocks.grid, blocks.block_size, 1, border)
    plain = upsample2(blocks, BlockOptions(interpolation=interpolation)).pixels
    residual = jnp.asarray(rng.standard_normal(plain.shape), jnp.float32)
    scale, bias = jnp.asarray(rng.standard_normal((2, 19)), jnp.float32)
    normalized = jax.nn.relu((plain + residual) * scale[None] + bias[None])
    for implementation in ("ffi", "xla"):
        got = indexed_upsample2(blocks.pixels, patches, implementation=implementation)
        assert_close(got, plain, 1e-6)
        got = indexed_upsample2(
            blocks.pixels, patches, residual, (scale, bias), implementation=implementation
        )
        assert_close(got, normalized, 1e-6)


# Gradients and transformations


@pytest.mark.family(of=("stride",))
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ["two_images", "one_pixel_low", "all_high", "all_low"])
def test_gradients_are_those_of_padded_blocks(
    name: str, stride: int, rng: np.random.Generator
) -> None:
    blocks = blocks_of(name, 5)
    if blocks.low_size % stride:
        pytest.skip("stride doesn't divide a low block")
    kernel = jnp.asarray(rng.standard_normal((3, 3, 5, 6)), jnp.float32)

    def run(pixels: jax.Array, kernel: jax.Array, implementation: str) -> jax.Array:
        maps = dataclasses.replace(blocks, pixels=pixels)
        return sb.block_conv(maps, kernel, stride, implementation=implementation).pixels

    values = {}
    for implementation in ("ffi", "xla"):
        out, transpose = jax.vjp(lambda p, k, i=implementation: run(p, k, i), blocks.pixels, kernel)
        cotangent = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
        values[implementation] = [out, *transpose(cotangent)]
    for got, expected in zip(values["ffi"], values["xla"], strict=True):
        assert_close(got, expected, 1e-5)


@pytest.mark.family("3-1-1", "3-2-1")
@pytest.mark.parametrize(
    ("size", "stride", "groups"), [(3, 1, 1), (3, 2, 1), (7, 2, 1), (1, 1, 1), (5, 1, 7)]
)
def test_image_convolution(size: int, stride: int, groups: int, rng: np.random.Generator) -> None:
    """Of images that are not square, values and gradients."""
    image = jnp.asarray(rng.standard_normal((2, 6, 11, 7)), jnp.float32)
    shape = (size, size, 7 // groups, 7 if groups > 1 else 9)
    kernel = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    values = []
    for name in ("ffi", "reference", "xla"):
        out, transpose = jax.vjp(
            lambda x, k, name=name: image_conv(
                x, k, stride, size // 2, groups, implementation=name
            ),
            image,
            kernel,
        )
        values.append([out, *transpose(jnp.cos(out))])
    for got in values[:2]:
        for part, expected in zip(got, values[2], strict=True):
            assert_close(part, expected, 1e-5)


def test_under_shard_map(rng: np.random.Generator) -> None:
    """Images over devices, kernel replicated: its gradient is the sum over devices."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec
    images = jnp.asarray(rng.standard_normal((4, 8, 16, 3)), jnp.float32)
    masks = jnp.asarray(np.tile([[[True, False, False, True]]], (4, 2, 1)))
    kernel = jnp.asarray(rng.standard_normal((3, 3, 3, 5)), jnp.float32)

    def loss(images: jax.Array, masks: jax.Array, kernel: jax.Array) -> jax.Array:
        blocks = sb.split(images, masks, num_high=masks.size // 2)
        return jnp.square(sb.block_conv(blocks, kernel, implementation="ffi").pixels).sum()

    def on_devices(images: jax.Array, masks: jax.Array, kernel: jax.Array) -> jax.Array:
        def part(images: jax.Array, masks: jax.Array, kernel: jax.Array) -> jax.Array:
            return jax.lax.psum(loss(images, masks, kernel), "data")

        specs = (spec("data"), spec("data"), spec())
        run = jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=spec())
        return run(images, masks, kernel)

    value, gradient = jax.jit(jax.value_and_grad(on_devices, argnums=2))(images, masks, kernel)
    expected, whole = jax.value_and_grad(loss, argnums=2)(images, masks, kernel)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert_close(gradient, whole, 1e-5)


def test_under_vmap(rng: np.random.Generator) -> None:
    blocks = blocks_of("two_images", 4)
    kernels = jnp.asarray(rng.standard_normal((3, 3, 3, 4, 5)), jnp.float32)

    def run(kernel: jax.Array) -> jax.Array:
        return sb.block_conv(blocks, kernel, implementation="ffi").pixels

    got = jax.vmap(run)(kernels)
    np.testing.assert_array_equal(got, jnp.stack([run(kernel) for kernel in kernels]))


# Errors


@pytest.mark.usefixtures("unchecked")
def test_errors() -> None:
    rows = jnp.zeros((12, 4), jnp.float32)
    patches = image_patches((1, 3, 4), (1, 1))
    kernel = pack_kernel(jnp.zeros((3, 3, 4, 5), jnp.float32))
    with pytest.raises(TypeError, match="the kernel is float32, the rows are bfloat16"):
        indexed_conv(rows.astype(jnp.bfloat16), patches, kernel)
    with pytest.raises(ValueError, match="takes 4 channels, the rows have 3"):
        indexed_conv(rows[:, :3], patches, kernel)
    with pytest.raises(ValueError, match="stride is 0"):
        indexed_conv(rows, patches, kernel, 0)
    with pytest.raises(ValueError, match="dilation 0; expected >= 1"):
        indexed_conv(rows, patches, kernel, dilation=0)
    with pytest.raises(ValueError, match="transformed for stride 2, the stride is 1"):
        indexed_conv(rows, patches, pack_kernel(jnp.zeros((3, 3, 4, 5)), winograd=2))
    with pytest.raises(ValueError, match=r"stride 1, .* the dilation 2; pack it with winograd=0"):
        indexed_conv(rows, patches, pack_kernel(jnp.zeros((3, 3, 4, 5)), winograd=1), dilation=2)
    for shape, dtype, winograd in (
        ((3, 3), "float16", 1),
        ((3, 1), "float32", 1),
        ((3, 3), "float32", 3),
    ):
        with pytest.raises(ValueError, match=rf"winograd={winograd} and a {dtype} kernel of 3 x"):
            pack_kernel(jnp.zeros((*shape, 4, 5), dtype), winograd=winograd)
    with pytest.raises(
        ValueError, match="pairs of a float32 kernel, winograd=0; expected bfloat16"
    ):
        pack_kernel(jnp.zeros((3, 3, 4, 5)), pairs=True)
    with pytest.raises(ValueError, match="pairs of a bfloat16 kernel, winograd=1"):
        pack_kernel(jnp.zeros((3, 3, 4, 5), jnp.bfloat16), winograd=1, pairs=True)
    with pytest.raises(ValueError, match="nothing is left"):
        indexed_conv(rows, patches, kernel, 1, Epilogue(keep=False))
    with pytest.raises(ValueError, match=r"residual has shape \(3, 5\); expected \(12, 5\)"):
        indexed_conv(rows, patches, kernel, 1, Epilogue(residual=jnp.zeros((3, 5))))
    with pytest.raises(ValueError, match=r"patches of 3 x 4 .* the \(5, 5\) kernel of dilation 1"):
        indexed_conv(
            rows,
            image_patches((1, 3, 4), (0, 0)),
            pack_kernel(jnp.zeros((5, 5, 4, 5), jnp.float32)),
        )
    with pytest.raises(ValueError, match="2 groups of 2 channels; expected 1 group, or as many"):
        pack_kernel(jnp.zeros((3, 3, 2, 4), jnp.float32), 2)
    grid = sb.BlockGrid.from_mask(np.ones((1, 1, 2), bool))
    with pytest.raises(ValueError, match="border is 'wrap'"):
        index_patches(grid, 4, 1, "wrap")
    with pytest.raises(ValueError, match="padding is -1; it can't be negative"):
        index_patches(grid, 4, -1)


def test_an_index_out_of_range_is_an_error() -> None:
    rows = jnp.zeros((12, 4), jnp.float32)
    patches = image_patches((1, 3, 4), (1, 1))
    wrong = dataclasses.replace(patches, high=patches.high.at[0, 1, 1].set(12))
    kernel = pack_kernel(jnp.zeros((3, 3, 4, 5), jnp.float32))
    with pytest.raises(Exception, match="segblocks_indexed_conv"):
        jax.block_until_ready(indexed_conv(rows, wrong, kernel, implementation="ffi"))
    assert isinstance(wrong, IndexPatches)
