"""Layers: the reference's numbers; all-high equals dense, all-low the averaged image; statistics by formula."""

import dataclasses
import pathlib
from collections.abc import Callable

import golden
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import CASES
from flax import nnx
from jax import jit
from jax.sharding import AxisType, PartitionSpec

import segblocks_jax as sb
from segblocks_jax import nn

AUTHORS = sb.BlockOptions.authors()
VARIABLES = {"bias": "bias", "running_mean": "mean", "running_var": "var"}
CASE = CASES["two_images"]


def conv(size: int | tuple[int, int], stride: int, groups: int = 1, **options) -> nn.Conv:
    options = {"stride": stride, "groups": groups, **options}
    return nn.Conv(4, 4, size, **options, rngs=nnx.Rngs(0))


def batch_norm(momentum: float = 0.1, eps: float = 1e-5, train: bool = True) -> nn.BatchNorm:
    layer = nn.BatchNorm(4, momentum=momentum, eps=eps, semantics=AUTHORS)
    layer.use_running_average = not train
    return layer


class Function(nnx.Module):
    """A layer without variables."""

    def __init__(self, function: Callable) -> None:
        self.function = function

    def __call__(self, x: sb.DualRes) -> sb.DualRes:
        return self.function(x)


LAYERS: dict[str, Callable[[], nnx.Module]] = {
    "conv_k3s1p1": lambda: conv(3, 1, use_bias=True),
    "conv_k3s2p1": lambda: conv(3, 2),
    "conv_k7s2p3": lambda: conv(7, 2),
    "conv_k1s2p0": lambda: conv(1, 2),
    "dwconv_k5s2p2": lambda: conv(5, 2, groups=4),
    "bn_train_m0.1": batch_norm,
    "bn_train_m0.01_eps1e-3": lambda: batch_norm(0.01, 1e-3),
    "bn_eval": lambda: batch_norm(train=False),
    "maxpool_k3s2p1": lambda: Function(lambda x: nn.max_pool(x, window=3, stride=2, padding=1)),
    "upsample2_bilinear": lambda: Function(lambda x: nn.upsample2(x, AUTHORS)),
}
GRIDS = [(layer, grid) for layer in LAYERS for grid in ("rand0", "high", "low")]
GRIDS += [(layer, "rand1") for layer in ("maxpool_k3s2p1", "upsample2_bilinear", "bn_train_m0.1")]


@pytest.fixture(scope="module")
def recorded(shared: pathlib.Path) -> dict[str, np.ndarray]:
    return golden.load(shared, "layers")


def variable(layer: nnx.Module, name: str) -> nnx.Variable:
    """A layer's variable by its torch name."""
    own = "kernel" if isinstance(layer, nn.Conv) else "scale"
    return getattr(layer, VARIABLES.get(name, own))


@pytest.mark.family
@pytest.mark.parametrize(("name", "grid_name"), GRIDS)
def test_golden(recorded: dict[str, np.ndarray], name: str, grid_name: str) -> None:
    prefix = f"{name}/{grid_name}/"
    z = {k.removeprefix(prefix): v for k, v in recorded.items() if k.startswith(prefix)}
    layer, grid = LAYERS[name](), sb.BlockGrid.from_mask(z["grid"])
    for key in z:
        if key.startswith("before/") and not key.endswith("num_batches_tracked"):
            value = z[key].transpose(2, 3, 1, 0) if z[key].ndim == 4 else z[key]
            variable(layer, key.removeprefix("before/"))[...] = jnp.asarray(value)
    graphdef, params, rest = nnx.split(layer, nnx.Param, ...)

    def forward(params: nnx.State, x: jax.Array) -> tuple[jax.Array, tuple]:
        layer = nnx.merge(graphdef, params, rest, copy=True)
        out = layer(sb.split(x, grid))
        return sb.combine(out), (out.pixels, nnx.state(layer, nnx.BatchStat))

    @jit
    def both(params: nnx.State, x: jax.Array, cotangent: jax.Array) -> tuple:
        image, vjp, aux = jax.vjp(forward, params, x, has_aux=True)
        return image, aux, vjp(cotangent)

    image, (pixels, stats), (grad_params, grad_x) = both(
        params, golden.nhwc(z["x"]), golden.nhwc(z["ct"])
    )
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(image, golden.nhwc(z["out"]), **close)
    np.testing.assert_allclose(
        pixels, golden.blocks(z["out_hr"], z["out_lr"], z["grid"]).pixels, **close
    )
    np.testing.assert_allclose(grad_x, golden.nhwc(z["grad_x"]), **close)
    checked = check_variables(layer, "grad/", grad_params, z)
    checked += check_variables(layer, "after/", stats, z)
    assert checked == sum(key.startswith(("grad/", "after/")) for key in z)


def check_variables(layer: nnx.Module, kind: str, state: nnx.State, z: dict) -> int:
    """Compares gradients or statistics with the recorded ones; returns how many there are."""
    nnx.update(layer, state)
    keys = [key for key in z if key.startswith(kind)]
    for key in keys:
        got = golden.torch_layout(variable(layer, key.removeprefix(kind))[...])
        scale = 1e-5 * np.abs(z[key]).max()
        np.testing.assert_allclose(got, z[key], rtol=1e-5, atol=scale, err_msg=key)
    return len(keys)


# Uniform grids equal images


def uniform(image: np.ndarray, high: bool) -> tuple[sb.DualRes, jax.Array]:
    """The image in blocks of one kind, and the image that they should be equal to."""
    mask = np.full(CASE.grid, high)
    n, h, w, c = image.shape
    whole = image if high else image.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))
    return sb.split(image, mask), jnp.asarray(whole)


def as_image(blocks: sb.DualRes) -> jax.Array:
    """Blocks of one kind, put together at their own size."""
    grid = sb.BlockGrid.from_mask(np.ones(blocks.grid.mask.shape, bool))
    return sb.combine(sb.DualRes(blocks.pixels, grid))


@pytest.mark.family
@pytest.mark.parametrize("high", [True, False])
@pytest.mark.parametrize(
    "layer",
    [
        *(lambda k=k, s=s: conv(k, s, use_bias=True) for k in (1, 3, 5, 7) for s in (1, 2)),
        lambda: conv((3, 1), 1),
        lambda: conv((1, 3), 1),
        lambda: conv(3, 1, groups=4, dilation=4),
        lambda: Function(lambda x: nn.max_pool(x, window=3, stride=2, padding=1)),
        lambda: Function(lambda x: nn.max_pool(x, window=2, stride=2, padding=0)),
        lambda: Function(lambda x: nn.upsample2(x, sb.BlockOptions())),
        lambda: nn.BatchNorm(4, momentum=0.1, semantics=sb.BlockOptions()),
        lambda: batch_norm(train=False),
        lambda: Function(lambda x: nn.pointwise(jnp.add, x, nn.pointwise(jax.nn.relu, x))),
    ],
    ids=[
        *(f"conv_k{k}s{s}" for k in (1, 3, 5, 7) for s in (1, 2)),
        *(
            "conv_k3x1",
            "conv_k1x3",
            "depthwise_d4",
            "max_pool",
            "max_pool_w2",
            "upsample2_halo",
            "batch_norm_train",
            "batch_norm_eval",
            "pointwise",
        ),
    ],
)
def test_uniform_grids_equal_images(layer: Callable[[], nnx.Module], high: bool) -> None:
    image = CASE.image()[..., :4]
    blocks, whole = uniform(image, high)
    in_blocks, dense = layer(), layer()
    got = as_image(nnx.jit(lambda m, x: m(x))(in_blocks, blocks))
    expected = nnx.jit(lambda m, x: m(x))(dense, whole)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    for a, b in zip(
        jax.tree.leaves(nnx.state(in_blocks)), jax.tree.leaves(nnx.state(dense)), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_authors_upsampling_leaves_seams() -> None:
    blocks, whole = uniform(CASE.image(), high=True)
    seams = as_image(nn.upsample2(blocks, AUTHORS)) - nn.upsample2(whole, AUTHORS)
    rows = np.flatnonzero(np.abs(seams).max((0, 2, 3)))
    assert set(rows % (2 * CASE.block_size)) == {*range(2 * CASE.block_size)}
    inner = np.abs(seams)[:, 1:-1, 1:-1].reshape(2, -1)
    border = np.zeros((CASE.image_shape[1] * 2, CASE.image_shape[2] * 2), bool)
    for edge in (0, -1):
        border[edge % 16 :: 16] = border[:, edge % 16 :: 16] = True
    assert not np.abs(seams)[:, ~border].any()
    assert inner.any()


def test_upsampling_reads_the_padding() -> None:
    """On a mixed grid: bilinear interpolation of the padded block, clamped at the image's border."""
    blocks = sb.split(CASE.image(), CASE.mask())
    out = nn.upsample2(blocks, sb.BlockOptions())
    packing = oracles.Packing(CASE.mask(), CASE.block_size)
    _, gh, gw = CASE.grid
    for high, parts in ((True, out.high), (False, out.low)):
        side = parts.shape[1] // 2
        padded = oracles.pad(packing, high, (1, 1)).apply(np.asarray(blocks.pixels))
        padded = padded.reshape(-1, side + 2, side + 2, CASE.channels)
        for (_, row, column), window, got in zip(packing.cells(high), padded, parts, strict=True):
            top, left = int(row == 0), int(column == 0)
            inside = window[top : side + 2 - (row == gh - 1), left : side + 2 - (column == gw - 1)]
            size = (2 * inside.shape[0], 2 * inside.shape[1])
            whole = oracles.resize_bilinear(inside[None], size)[0]
            y, x = 2 * (1 - top), 2 * (1 - left)
            np.testing.assert_allclose(
                got, whole[y : y + 2 * side, x : x + 2 * side], atol=1e-5, err_msg=f"{row} {column}"
            )


# Batch norm


def test_joint_statistics_are_of_all_pixels() -> None:
    blocks = sb.split(CASE.image() * 3 + 1, CASE.mask())
    layer = nn.BatchNorm(5, momentum=0.2, eps=1e-3, semantics=sb.BlockOptions())
    layer.scale[...], layer.bias[...] = jnp.arange(5.0), jnp.full(5, 2.0)
    out = layer(blocks)
    pixels = np.asarray(blocks.pixels, np.float64)
    mean, var = pixels.mean(0), pixels.var(0)
    expected = (pixels - mean) / np.sqrt(var + 1e-3) * np.arange(5.0) + 2
    np.testing.assert_allclose(out.pixels, expected, atol=1e-5)
    count = len(pixels)
    np.testing.assert_allclose(layer.mean[...], 0.2 * mean, rtol=1e-5)
    np.testing.assert_allclose(layer.var[...], 0.8 + 0.2 * var * count / (count - 1), rtol=1e-5)


@pytest.mark.parametrize("share", [0.5, 0.0, 1.0])
def test_statistics_per_resolution(share: float) -> None:
    case = dataclasses.replace(CASE, share=share)
    blocks = sb.split(case.image() * 3 + 1, case.mask())
    layer = nn.BatchNorm(5, momentum=0.2, semantics=AUTHORS)
    out = layer(blocks)
    groups = [np.asarray(x, np.float64).reshape(-1, 5) for x in (blocks.high, blocks.low)]
    groups = [x for x in groups if len(x)]
    expected = [(x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) for x in groups]
    np.testing.assert_allclose(out.pixels, np.concatenate(expected), atol=1e-5)
    count = len(blocks.pixels)
    mean = sum(len(x) * x.mean(0) for x in groups) / count
    var = sum(len(x) * x.var(0) for x in groups) / count
    np.testing.assert_allclose(layer.mean[...], 0.2 * mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.var[...], 0.8 + 0.2 * var * count / (count - 1), rtol=1e-5)


def test_evaluation_uses_and_keeps_the_running_statistics() -> None:
    layer = nn.BatchNorm(5, momentum=0.2, semantics=sb.BlockOptions())
    layer.mean[...], layer.var[...] = jnp.arange(5.0), jnp.arange(1.0, 6.0)
    layer.eval()
    blocks = sb.split(CASE.image(), CASE.mask())
    expected = (np.asarray(blocks.pixels) - np.arange(5)) / np.sqrt(np.arange(1, 6) + 1e-5)
    np.testing.assert_allclose(layer(blocks).pixels, expected, atol=1e-5)
    np.testing.assert_array_equal(layer.mean[...], np.arange(5.0))
    np.testing.assert_array_equal(layer.var[...], np.arange(1.0, 6.0))


def test_statistics_over_devices() -> None:
    if jax.device_count() < 2:
        pytest.skip("needs two devices")
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])
    image = jnp.asarray(CASE.image())

    def normalize(
        image: jax.Array, axis_name: str | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        layer = nn.BatchNorm(5, momentum=0.2, semantics=sb.BlockOptions())
        with nn.synchronized_batch_norm(axis_name):
            return layer(image), layer.mean[...], layer.var[...]

    data, everywhere = PartitionSpec("data"), PartitionSpec()
    split = jax.shard_map(
        lambda x: normalize(x, "data"),
        mesh=mesh,
        in_specs=data,
        out_specs=(data, everywhere, everywhere),
    )
    for got, expected in zip(jax.jit(split)(image), normalize(image, None), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_types_keep_their_dtype_and_wide_statistics(dtype: str) -> None:
    image = jnp.full((1, 8, 8, 2), 300, dtype) + jnp.arange(8, dtype=dtype)[None, :, None, None]
    layer = nn.BatchNorm(2, momentum=1.0, semantics=sb.BlockOptions())
    assert layer(image).dtype == dtype
    values = np.asarray(image, np.float64)
    assert layer.mean[...].dtype == jnp.float32
    np.testing.assert_allclose(layer.mean[...], values.mean((0, 1, 2)), rtol=1e-6)


# Pooling, resizing, regions


def test_max_pool_counts_zero_outside_the_image(rng: np.random.Generator) -> None:
    image = rng.standard_normal((2, 9, 11, 3)).astype(np.float32) - 3
    got = nn.max_pool(jnp.asarray(image), window=3, stride=2, padding=1)
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    np.testing.assert_array_equal(got, oracles.max_pool(padded, 3, 2).astype(np.float32))
    assert not got[:, 0].any()


@pytest.mark.parametrize("size", [(8, 16), (4, 5), (2, 1), (1, 1), (7, 9), (10, 12)])
def test_adaptive_average_pool_against_loop(size: tuple[int, int], rng) -> None:
    image = rng.standard_normal((2, 7, 9, 3)).astype(np.float32)
    got = nn.adaptive_average_pool(jnp.asarray(image), size)
    np.testing.assert_allclose(got, oracles.adaptive_average_pool(image, size), atol=1e-6)


@pytest.mark.parametrize("size", [(8, 16), (4, 5), (14, 18), (1, 1), (7, 9)])
def test_resize_against_loop(size: tuple[int, int], rng: np.random.Generator) -> None:
    image = rng.standard_normal((2, 7, 9, 3)).astype(np.float32)
    got = nn.resize_bilinear(jnp.asarray(image), size)
    np.testing.assert_allclose(got, oracles.resize_bilinear(image, size), atol=2e-6)


def test_upsampling_of_images_is_the_resize(rng: np.random.Generator) -> None:
    image = rng.standard_normal((2, 5, 3, 2)).astype(np.float32)
    got = nn.upsample2(jnp.asarray(image), sb.BlockOptions())
    np.testing.assert_allclose(got, oracles.resize_bilinear(image, (10, 6)), atol=1e-6)


@pytest.mark.parametrize("low_upsampling", ["bilinear", "nearest"])
def test_whole_image_runs_on_the_combined_image(low_upsampling: str) -> None:
    semantics = sb.BlockOptions(low_upsampling=low_upsampling)
    blocks = sb.split(CASE.image(), CASE.mask())

    def center(image: jax.Array) -> jax.Array:
        return image - image.mean((1, 2), keepdims=True)

    got = nn.on_full_image(center, blocks, semantics)
    expected = sb.split(center(sb.combine(blocks, low_upsampling)), blocks.grid)
    np.testing.assert_array_equal(got.pixels, expected.pixels)
    image = jnp.asarray(CASE.image())
    np.testing.assert_array_equal(nn.on_full_image(center, image, semantics), center(image))
    high = nn.on_full_image(center, sb.split(image, np.ones(CASE.grid, bool)), semantics)
    np.testing.assert_array_equal(sb.combine(high), center(image))


def test_random_kernels_follow_the_seed() -> None:
    first, second, third = (
        np.asarray(nn.Conv(8, 16, 7, rngs=nnx.Rngs(seed)).kernel[...]) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != third).all()
    assert first.std() == pytest.approx((2 / (8 * 49)) ** 0.5, rel=0.05)


def test_convolutions_keep_the_size_by_default() -> None:
    for size, dilation in (((3, 1), 1), ((1, 5), 1), ((3, 5), 4), (3, 2)):
        layer = conv(size, 1, dilation=dilation)
        kh, kw = layer.kernel.shape[:2]
        assert layer.padding == (dilation * (kh - 1) // 2, dilation * (kw - 1) // 2)
        assert layer(jnp.ones((1, 9, 7, 4))).shape == (1, 9, 7, 4)
    assert conv(3, 1, padding=0)(jnp.ones((1, 9, 7, 4))).shape == (1, 7, 5, 4)
    assert conv(3, 1, padding=(1, 0))(jnp.ones((1, 9, 7, 4))).shape == (1, 9, 5, 4)


def test_semantics_errors() -> None:
    for name in ("interpolation", "batch_norm", "low_upsampling", "filling", "ignored"):
        with pytest.raises(
            ValueError, match=rf"BlockOptions: {name} is 'wrong'; expected one of \("
        ):
            sb.BlockOptions(**{name: "wrong"})
