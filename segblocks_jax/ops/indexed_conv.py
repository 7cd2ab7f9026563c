"""indexed_conv: convolution of a packed list whose rows are found by index."""

import dataclasses
import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from segblocks_jax.ops import by_index, extension, no_type_check
from segblocks_jax.ops.convolved import convolved, in_order
from segblocks_jax.ops.packed_kernel import PackedKernel
from segblocks_jax.ops.patches import IndexPatches, Taps, gather

Activation = Literal["none", "relu", "relu6"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
Outputs = tuple[Float[Array, "p k"] | None, Float[Array, "p k"] | None]
Halos = tuple[Float[Array, "l k"] | None, Float[Array, "l k"] | None]


@jax.tree_util.register_dataclass
@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Epilogue:
    """What follows a convolution before its result is stored, in float32.

    ``y = activation(conv * scale + bias + residual)``, and for a layer that normalizes first,
    ``relu(y * following[0] + following[1])``.

    Attributes:
        scale, bias: (k,), e.g. a folded batch norm; None: 1 and 0.
        residual: (p, k), like the output; None: 0.
        following: (scale, bias) of the second output; None: there is none.
        activation: "none", "relu" or "relu6".
        keep: whether y itself is stored.
    """

    scale: Float[Array, "k"] | None = None
    bias: Float[Array, "k"] | None = None
    residual: Float[Array, "p k"] | None = None
    following: tuple[Float[Array, "k"], Float[Array, "k"]] | None = None
    activation: Activation = dataclasses.field(default="none", metadata={"static": True})
    keep: bool = dataclasses.field(default=True, metadata={"static": True})


@jax.named_scope("indexed_conv")
def indexed_conv(
    rows: Float[Array, "r c"],
    patches: IndexPatches,
    kernel: PackedKernel,
    stride: int = 1,
    epilogue: Epilogue | None = None,
    *,
    dilation: int = 1,
    implementation: str | None = None,
) -> Outputs:
    """Convolves patches of rows that are found by index, without padding, accumulating in float32.

    A unit of `patches` of (height, width) gives ``(height - eh) // stride + 1`` times
    ``(width - ew) // stride + 1`` output pixels, row by row, where the kernel extends over
    ``eh = dilation (kh - 1) + 1``, ew likewise; units follow each other, high ones first.
    Not differentiable in itself; `segblocks_jax.block_conv` is.

    Args:
        rows: the pixel list, float32 or bfloat16.
        patches: where each unit's pixels are.
        kernel: see `pack_kernel`; made of one of the rows' dtype.
        stride: of the window, in both directions.
        epilogue: what follows; default: nothing.
        dilation: distance of neighboring taps of the kernel.
        implementation: "ffi", "reference", or None for the compiled handler where there is one.

    Returns:
        The output, or None where `Epilogue.keep` is False; and the second output, or None.

    Raises:
        TypeError: kernel and rows of different dtypes.
        ValueError: sizes that don't fit together, or "xla", whose convolution finds nothing by index.
    """
    if implementation == "xla":
        raise ValueError("indexed_conv: XLA has no convolution by index; use 'ffi' or 'reference'")
    epilogue, window = epilogue or Epilogue(), Taps(kernel.size, stride, dilation)
    _check(rows, patches, kernel, window, epilogue)
    run = _compiled if extension.resolve(implementation) == "ffi" else _reference
    return run(rows, patches, kernel, window, epilogue)


def _check(
    rows: Array, patches: IndexPatches, kernel: PackedKernel, window: Taps, epilogue: Epilogue
) -> None:
    expected = jnp.float32 if kernel.winograd and rows.dtype == "bfloat16" else rows.dtype
    if kernel.weights.dtype != expected:
        raise TypeError(
            f"indexed_conv: the kernel is {kernel.weights.dtype}, the rows are {rows.dtype}; cast one of them"
        )
    if kernel.channels != rows.shape[1]:
        raise ValueError(
            f"indexed_conv: the kernel takes {kernel.channels} channels, the rows have {rows.shape[1]}"
        )
    stride, dilation = window.stride, window.dilation
    if min(stride, dilation) < 1:
        raise ValueError(f"indexed_conv: stride is {stride}, dilation {dilation}; expected >= 1")
    if kernel.winograd and (kernel.winograd, 1) != (stride, dilation):
        raise ValueError(
            f"indexed_conv: the kernel is transformed for stride {kernel.winograd}, the stride is {stride}"
            f" and the dilation {dilation}; pack it with winograd={stride * (dilation == 1)}, or 0"
        )
    if epilogue.activation not in ACTIVATIONS:
        raise ValueError(
            f"indexed_conv: activation is {epilogue.activation!r}; expected one of {ACTIVATIONS}"
        )
    if not epilogue.keep and epilogue.following is None:
        raise ValueError(
            "indexed_conv: keep is False and there is no second output; nothing is left"
        )
    for units, height, width in (patches.high.shape, patches.low.shape):
        if units and (height < window.extent[0] or width < window.extent[1]):
            raise ValueError(
                f"indexed_conv: patches of {height} x {width} are smaller than the {kernel.size} kernel of"
                f" dilation {dilation}"
            )
    expected = (patches.num_outputs(window.extent, stride), kernel.features)
    if epilogue.residual is not None and epilogue.residual.shape != expected:
        raise ValueError(
            f"indexed_conv: residual has shape {epilogue.residual.shape}; expected {expected}"
        )
    for vector in (epilogue.scale, epilogue.bias, *(epilogue.following or ())):
        if vector is not None and vector.shape != expected[1:]:
            raise ValueError(
                f"indexed_conv: a scale or bias has shape {vector.shape}; expected {expected[1:]}"
            )


@jax.named_scope("indexed_conv")
def indexed_conv_of_halos(
    rows: Float[Array, "r c"],
    patches: IndexPatches,
    kernel: PackedKernel,
    stride: int,
    epilogue: Epilogue,
    *,
    dilation: int = 1,
    halos: Float[Array, "g c"] | None = None,
    lends: tuple[int, int] = (0, 0),
) -> tuple[Outputs, Halos]:
    """The compiled `indexed_conv` of a GPU, which takes halo means of its rows and lends those of its outputs.

    `halos` are those of the rows, as the call that made these has lent them; None: the handler computes them. `lends`
    says of each output how far those that read it see beyond their blocks, in pixels, or 0: one of the outputs at
    most is lent. Units have square maps of an even side where one is.

    Returns the outputs, and the halos of each, numbered as by `IndexPatches.means` of blocks of that padding.
    """
    window = Taps(kernel.size, stride, dilation)
    _check(rows, patches, kernel, window, epilogue)
    return _run(rows, patches, kernel, window, epilogue, halos, lends)


def _compiled(
    rows: Array, patches: IndexPatches, kernel: PackedKernel, window: Taps, epilogue: Epilogue
) -> Outputs:
    def run(kernel: PackedKernel) -> Outputs:
        return _run(rows, patches, kernel, window, epilogue)[0]

    def run_plain(kernel: PackedKernel) -> Outputs:
        plain = kernel.plain()
        return run(dataclasses.replace(plain, weights=plain.weights.astype(rows.dtype)))

    if not (kernel.winograd or kernel.pairs):
        return run(kernel)
    # Where a program for several platforms is exported, they share their weights.
    return lax.platform_dependent(kernel, cpu=run, default=run_plain)


def _run(
    rows: Array,
    patches: IndexPatches,
    kernel: PackedKernel,
    window: Taps,
    epilogue: Epilogue,
    halos: Array | None = None,
    lends: tuple[int, int] = (0, 0),
) -> tuple[Outputs, Halos]:
    pixels, features = patches.num_outputs(window.extent, window.stride), kernel.features
    nothing = jnp.zeros(0, jnp.float32)
    residual = jnp.zeros((0, features), rows.dtype)
    keep, second = epilogue.keep, epilogue.following is not None
    scale2, bias2 = epilogue.following or (nothing, nothing)
    operands = (
        kernel.weights,
        nothing if epilogue.scale is None else epilogue.scale,
        nothing if epilogue.bias is None else epilogue.bias,
        residual if epilogue.residual is None else epilogue.residual,
        scale2,
        bias2,
    )
    units, height, _ = patches.high.shape
    side = (height - window.extent[0]) // window.stride + 1
    rings = [(by_index.lent_halos(units, side, padding), features) for padding in lends]
    results = by_index.call(
        "segblocks_indexed_conv",
        (rows, patches, operands, halos),
        ((pixels * keep, features), (pixels * second, features)),
        rings[: 2 if lends[1] else bool(lends[0])],
        kh=kernel.size[0],
        kw=kernel.size[1],
        stride=window.stride,
        dilation=window.dilation,
        groups=kernel.features if kernel.depthwise else 1,
        activation=ACTIVATIONS.index(epilogue.activation),
        winograd=int(kernel.winograd > 0),
    )
    lent = (*results[2:], None, None)
    return (
        (results[0] if keep else None, results[1] if second else None),
        (lent[0] if lends[0] else None, lent[1] if lends[1] else None),
    )


@functools.partial(jax.jit, static_argnames=("window",))
def _reference(
    rows: Array, patches: IndexPatches, kernel: PackedKernel, window: Taps, epilogue: Epilogue
) -> Outputs:
    taps = kernel.taps().astype(rows.dtype)
    high, low = (convolved(part, taps, window) for part in gather(rows, patches))
    return _finish(in_order(high, low, patches), epilogue, rows.dtype)


def _finish(out: Array, epilogue: Epilogue, dtype: jax.typing.DTypeLike) -> Outputs:
    if epilogue.scale is not None:
        out = out * epilogue.scale[None]
    if epilogue.bias is not None:
        out = out + epilogue.bias[None]
    if epilogue.residual is not None:
        out = out + epilogue.residual.astype(jnp.float32)
    activation = {"none": lambda x: x, "relu": jax.nn.relu, "relu6": jax.nn.relu6}
    out = activation[epilogue.activation](out)
    second = None
    if epilogue.following is not None:
        scale, bias = epilogue.following
        second = jax.nn.relu(out * scale[None] + bias[None]).astype(dtype)
    return (out.astype(dtype) if epilogue.keep else None), second
