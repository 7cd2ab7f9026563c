"""block_conv: against loops over padded blocks, and against the convolution of whole images."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import CASES
from jax import jit
from jax.test_util import check_grads

import segblocks_jax as sb
from segblocks_jax.ops import extension
from segblocks_jax.ops.valid_conv import valid_convolution


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A convolution's sizes."""

    size: tuple[int, int]
    stride: int = 1
    groups: int = 1
    features: int = 4
    bias: bool = False
    dilation: int = 1
    same_tf: bool = False

    @property
    def shift(self) -> tuple[int, int]:
        """At stride 2, SAME padding has nothing before a kernel of 1, and else one pixel less than behind it."""
        return tuple(int(self.same_tf and k > 1) for k in self.size)

    @property
    def padding(self) -> tuple[int, int]:
        return tuple(self.dilation * (k - 1) // 2 for k in self.size)

    @property
    def executions(self) -> tuple[str, ...]:
        by_index = self.groups in (1, CASE.channels)
        return ("ffi", "reference", "xla") if by_index else ("xla",)

    def draw(self, channels: int, rng: np.random.Generator) -> tuple[jax.Array, jax.Array | None]:
        shape = (*self.size, channels // self.groups, self.features)
        kernel = rng.standard_normal(shape).astype(np.float32)
        bias = rng.standard_normal(self.features).astype(np.float32) if self.bias else None
        return jnp.asarray(kernel), None if bias is None else jnp.asarray(bias)


SQUARE = {f"k{k}s{s}": Kernel((k, k), s, bias=s == 1) for k in (1, 3, 5, 7) for s in (1, 2)}
# As in LRNNet. Dilation 4 pads as many pixels as a low block has; from 5 on a low block, from 9 on a
# high one reads past the neighbor, and 33 past the image.
FACTORIZED = {
    "k3x1": Kernel((3, 1)),
    "k1x5": Kernel((1, 5), bias=True),
    "k1x3s2": Kernel((1, 3), 2),
    "depthwise_k5s2": Kernel((5, 5), 2, groups=4),
    "k3d2": Kernel((3, 3), dilation=2),
    "k3x1d4": Kernel((3, 1), dilation=4),
    "k3s2d3": Kernel((3, 3), 2, dilation=3),
    "depthwise_d4": Kernel((3, 3), groups=4, dilation=4),
    "depthwise_d5": Kernel((3, 3), groups=4, bias=True, dilation=5),
    "depthwise_d17": Kernel((3, 3), groups=4, dilation=17),
    "k5s2d9": Kernel((5, 5), 2, dilation=9),
    "k1x3d33": Kernel((1, 3), bias=True, dilation=33),
}
SAME_TF = {
    "same_k3": Kernel((3, 3), 2, same_tf=True),
    "same_k7": Kernel((7, 7), 2, bias=True, same_tf=True),
    "same_k3x1": Kernel((3, 1), 2, same_tf=True),
    "same_depthwise_k5": Kernel((5, 5), 2, groups=4, same_tf=True),
}
UNIFORM = SQUARE | FACTORIZED | SAME_TF
KERNELS = UNIFORM | {
    "groups2": Kernel((3, 3), groups=2, features=6),
    "pointwise_groups": Kernel((1, 1), groups=4),
    "pointwise_dilated": Kernel((1, 1), dilation=3),
    "groups2_dilated": Kernel((3, 3), groups=2, features=6, dilation=2),
}
CASE = dataclasses.replace(CASES["two_images"], channels=4)


def dense(image: jax.Array, kernel: jax.Array, bias: jax.Array | None, sizes: Kernel) -> jax.Array:
    """XLA's convolution of zero-padded images."""
    padding = "SAME" if sizes.same_tf else [(p, p) for p in sizes.padding]
    out = jax.lax.conv_general_dilated(
        image,
        kernel,
        (sizes.stride, sizes.stride),
        padding,
        rhs_dilation=(sizes.dilation, sizes.dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=sizes.groups,
    )
    return out if bias is None else out + bias[None, None, None]


def mean2(image: jax.Array) -> jax.Array:
    """2 x 2 means."""
    n, h, w, c = image.shape
    return image.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))


def every_execution(kernels: dict[str, Kernel]) -> pytest.MarkDecorator:
    """Parameters `sizes` and `execution`: each kernel by all executions that have it."""
    cases = [
        pytest.param(sizes, execution, id=f"{name}-{execution}")
        for name, sizes in kernels.items()
        for execution in sizes.executions
    ]
    return pytest.mark.parametrize(("sizes", "execution"), cases, indirect=["execution"])


@pytest.fixture
def execution(request: pytest.FixtureRequest) -> str:
    """An execution of the convolution; the compiled one needs the compiled handlers."""
    if request.param == "ffi":
        request.getfixturevalue("compiled")
    return request.param


@pytest.mark.family
@every_execution(KERNELS)
def test_against_loops(sizes: Kernel, execution: str, rng: np.random.Generator) -> None:
    blocks = sb.split(CASE.image(), CASE.mask())
    kernel, bias = sizes.draw(CASE.channels, rng)
    out = sb.block_conv(
        blocks,
        kernel,
        sizes.stride,
        sizes.padding,
        sizes.groups,
        bias,
        dilation=sizes.dilation,
        shift=sizes.shift,
        implementation=execution,
    )
    packing = oracles.Packing(CASE.mask(), CASE.block_size)
    py, px = sizes.padding
    for high, got in ((True, out.high), (False, out.low)):
        side = CASE.block_size if high else CASE.low_size
        padded = oracles.pad(packing, high, sizes.padding).apply(np.asarray(blocks.pixels))
        padded = padded.reshape(-1, side + 2 * py, side + 2 * px, CASE.channels)
        padded = padded[:, sizes.shift[0] :, sizes.shift[1] :]
        expected = oracles.convolve(
            padded, np.asarray(kernel), sizes.stride, sizes.groups, sizes.dilation
        )
        expected = expected if bias is None else expected + np.asarray(bias)
        np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.family
@every_execution(UNIFORM)
@pytest.mark.parametrize("high", [True, False])
def test_uniform_grids_equal_the_dense_convolution(
    sizes: Kernel, high: bool, execution: str, rng: np.random.Generator
) -> None:
    """Values and gradients: all high, of the image; all low, of the averaged image."""
    mask = np.full(CASE.grid, high)
    kernel, bias = sizes.draw(CASE.channels, rng)
    image = jnp.asarray(CASE.image())
    grid = sb.BlockGrid.from_mask(mask)

    def in_blocks(image: jax.Array, kernel: jax.Array) -> jax.Array:
        out = sb.block_conv(
            sb.split(image, grid),
            kernel,
            sizes.stride,
            sizes.padding,
            sizes.groups,
            bias,
            dilation=sizes.dilation,
            shift=sizes.shift,
            implementation=execution,
        )
        # Put low blocks together at their own size.
        whole = sb.BlockGrid.from_mask(np.ones_like(mask))
        return sb.combine(sb.DualRes(out.pixels, whole), "nearest")

    def on_image(image: jax.Array, kernel: jax.Array) -> jax.Array:
        return dense(image if high else mean2(image), kernel, bias, sizes)

    @jit
    def both(image: jax.Array, kernel: jax.Array) -> list:
        results = []
        for function in (in_blocks, on_image):
            value, vjp = jax.vjp(function, image, kernel)
            cotangent = jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape)
            results.append([value, *vjp(cotangent)])
        return results

    for got, expected in zip(*both(image, kernel), strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-5 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("name", ["k3x1", "k1x5", "k3d2", "depthwise_d4", "same_depthwise_k5"])
def test_gradients_on_a_mixed_grid_against_finite_differences(
    name: str, rng: np.random.Generator
) -> None:
    """A product of pixels and kernel: central differences are exact but for rounding."""
    sizes = UNIFORM[name]
    blocks = sb.split(CASE.image(), CASE.mask())
    kernel, _ = sizes.draw(CASE.channels, rng)

    @jit
    def run(pixels: jax.Array, kernel: jax.Array) -> jax.Array:
        moved = dataclasses.replace(blocks, pixels=pixels)
        options = (sizes.stride, sizes.padding, sizes.groups)
        shape = {"dilation": sizes.dilation, "shift": sizes.shift}
        return sb.block_conv(moved, kernel, *options, **shape).pixels

    check_grads(run, (blocks.pixels, kernel), 1, ["rev"], eps=0.1, atol=1e-3, rtol=1e-3)


def test_second_derivatives_of_what_has_gradients_by_index(
    compiled: None, rng: np.random.Generator
) -> None:
    sizes = UNIFORM["depthwise_d4"]
    blocks = sb.split(CASE.image(), CASE.mask())
    kernel, _ = sizes.draw(CASE.channels, rng)
    options = (sizes.stride, sizes.padding, sizes.groups)
    shape = {"dilation": sizes.dilation, "shift": sizes.shift}

    @functools.partial(jit, static_argnums=1)
    def run(pixels: jax.Array, implementation: str) -> tuple[jax.Array, ...]:
        def value(pixels: jax.Array, kernel: jax.Array) -> jax.Array:
            moved = dataclasses.replace(blocks, pixels=pixels)
            out = sb.block_conv(moved, kernel, *options, **shape, implementation=implementation)
            return jnp.sin(out.pixels).sum()

        def squares(pixels: jax.Array, kernel: jax.Array) -> jax.Array:
            return sum((g**2).sum() for g in jax.grad(value, (0, 1))(pixels, kernel))

        return jax.grad(squares, (0, 1))(pixels, kernel)

    for got, expected in zip(run(blocks.pixels, "ffi"), run(blocks.pixels, "xla"), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize(
    ("shape", "features", "sizes"),
    [
        ((3, 10, 12, 3), 8, Kernel((3, 3))),
        ((3, 11, 11, 3), 8, Kernel((3, 3), 2)),
        ((3, 8, 10, 64), 8, Kernel((3, 3), 2)),
        ((2, 6, 5, 256), 8, Kernel((3, 3))),
        ((2, 7, 9, 64), 8, Kernel((7, 7), 2)),
        ((2, 6, 6, 64), 8, Kernel((1, 1), 2)),
        ((2, 6, 6, 8), 8, Kernel((3, 3), groups=8)),
        ((3, 8, 10, 3), 8, Kernel((1, 3), 2)),
        ((3, 10, 8, 3), 8, Kernel((3, 1))),
        ((3, 10, 12, 3), 8, Kernel((3, 3), dilation=3)),
        ((2, 12, 9, 64), 8, Kernel((3, 3), 2, dilation=2)),
        ((2, 9, 9, 8), 8, Kernel((3, 3), groups=8, dilation=4)),
        ((2, 9, 9, 8), 8, Kernel((3, 3), groups=2, dilation=3)),
        ((0, 6, 6, 3), 8, Kernel((3, 3))),
    ],
    ids=str,
)
def test_every_route_is_the_same_convolution(
    shape: tuple[int, ...], features: int, sizes: Kernel, rng: np.random.Generator
) -> None:
    """Batches of small maps take another route than images; values and gradients are the same."""
    maps = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    sizes = dataclasses.replace(sizes, features=features)
    kernel, _ = sizes.draw(shape[3], rng)

    def route(maps: jax.Array, kernel: jax.Array) -> jax.Array:
        return valid_convolution(maps, kernel, sizes.stride, sizes.groups, sizes.dilation)

    def plain(maps: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            maps,
            kernel,
            (sizes.stride, sizes.stride),
            "VALID",
            rhs_dilation=(sizes.dilation, sizes.dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=sizes.groups,
        )

    @jit
    def both(maps: jax.Array, kernel: jax.Array) -> list:
        results = []
        for function in (route, plain):
            value, vjp = jax.vjp(function, maps, kernel)
            cotangent = jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape)
            results.append([value, *vjp(cotangent)])
        return results

    for got, expected in zip(*both(maps, kernel), strict=True):
        scale = float(jnp.abs(expected).max(initial=0.0))
        np.testing.assert_allclose(got, expected, atol=2e-5 * scale + 1e-7)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_types(dtype: str, rng: np.random.Generator) -> None:
    sizes = Kernel((3, 3))
    kernel, _ = sizes.draw(CASE.channels, rng)
    wide = sb.block_conv(sb.split(CASE.image(), CASE.mask()), kernel)
    narrow = sb.block_conv(sb.split(CASE.image(dtype), CASE.mask()), kernel.astype(dtype))
    assert narrow.pixels.dtype == dtype
    error = jnp.abs(narrow.pixels.astype(jnp.float32) - wide.pixels).max()
    assert error < 8 * float(jnp.finfo(dtype).eps) * float(jnp.abs(wide.pixels).max())


@pytest.mark.parametrize(
    ("kernel", "options", "error", "text"),
    [
        (
            (3, 3, 5, 4),
            {},
            ValueError,
            r"kernel \(3, 3, 5, 4\) with 1 groups doesn't fit 4 channels",
        ),
        ((3, 3, 2, 3), {"groups": 2}, ValueError, r"expected \(kh, kw, 2, a multiple of 2\)"),
        ((3, 3, 4, 4), {"stride": 3}, ValueError, "stride 3 doesn't divide the block side 4"),
        (
            (5, 5, 4, 4),
            {},
            ValueError,
            r"padding \(1, 1\) doesn't keep whole blocks under a 5 x 5.*use \(2, 2\)",
        ),
        (
            (3, 3, 4, 4),
            {"padding": (1, 2)},
            ValueError,
            r"padding \(1, 2\) doesn't keep whole blocks",
        ),
        ((9, 9, 4, 4), {"padding": 9}, ValueError, "doesn't keep whole blocks"),
        (
            (3, 3, 4, 4),
            {"implementation": "cuda"},
            ValueError,
            r"expected one of 'ffi', 'xla', 'reference'",
        ),
        (
            (3, 3, 2, 4),
            {"groups": 2, "implementation": "reference"},
            ValueError,
            "2 groups of float32 can't run by index.*use implementation='xla'",
        ),
        (
            (3, 1, 4, 4),
            {"dilation": 3},
            ValueError,
            r"padding \(1, 1\) doesn't keep whole blocks under a 3 x 1.* dilation 3; use \(3, 0\)",
        ),
        ((3, 3, 4, 4), {"dilation": 0}, ValueError, "dilation is 0; expected at least 1"),
        (
            (3, 3, 4, 4),
            {"stride": 2, "shift": (1, 2)},
            ValueError,
            r"shift \(1, 2\) doesn't keep whole blocks; expected 0 or more, and below \(2, 2\)",
        ),
        ((2, 2, 4, 4), {"stride": 2, "padding": 0, "shift": 1}, ValueError, r"below \(1, 1\)"),
        ((3, 3, 4, 4), {"shift": -1}, ValueError, r"shift \(-1, -1\) doesn't keep whole blocks"),
    ],
)
def test_errors(kernel: tuple[int, ...], options: dict, error: type[Exception], text: str) -> None:
    blocks = sb.split(CASE.image(), CASE.mask())
    with pytest.raises(error, match=text):
        sb.block_conv(blocks, jnp.zeros(kernel, jnp.float32), **options)


def test_a_context_gives_way_where_an_operation_lacks_it(compiled: None) -> None:
    blocks = sb.split(CASE.image(), CASE.mask())

    def operations(name: str, groups: int, dilation: int = 1) -> set[str]:
        """What a convolution in a context consists of."""

        def run(pixels: jax.Array, kernel: jax.Array) -> jax.Array:
            with extension.using(name):
                maps = dataclasses.replace(blocks, pixels=pixels)
                options = {"padding": dilation, "dilation": dilation, "groups": groups}
                return sb.block_conv(maps, kernel, **options).pixels

        kernel = jnp.zeros((3, 3, CASE.channels // groups, 4), jnp.float32)
        text = str(jax.make_jaxpr(run)(blocks.pixels, kernel))
        marks = {
            "segblocks_indexed_conv": "by index",
            "conv_general_dilated": "XLA's",
            "dot_general": "products",
            "segblocks_pad": "padded by a handler",
        }
        return {mark for word, mark in marks.items() if word in text}

    assert operations("ffi", 1) == operations("ffi", 1, dilation=9) == {"by index"}
    assert operations("ffi", 2) == {"XLA's", "padded by a handler"}
    assert operations("xla", 1) == {"XLA's"}
    assert operations("reference", 1) == operations("reference", 1, dilation=9) == {"products"}
    assert operations("reference", 2) == {"XLA's"}


def test_mixed_dtypes() -> None:
    blocks = sb.split(CASE.image(), CASE.mask())
    kernel = jnp.zeros((3, 3, 4, 4), jnp.float32)
    with pytest.raises(TypeError, match="kernel is bfloat16, the blocks are float32; cast one"):
        sb.block_conv(blocks, kernel.astype(jnp.bfloat16))
    with pytest.raises(TypeError, match="bias is float16, the blocks are float32"):
        sb.block_conv(blocks, kernel, bias=jnp.zeros(4, jnp.float16))
