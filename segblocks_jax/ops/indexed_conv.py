"""indexed_conv: convolution of a packed list whose rows are found by index."""

import dataclasses
import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from segblocks_jax.ops import extension, ffi_call, no_type_check
from segblocks_jax.ops.packed_kernel import PackedKernel
from segblocks_jax.ops.patches import IndexPatches, Taps, gather

Activation = Literal["none", "relu", "relu6"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
Outputs = tuple[Float[Array, "p k"] | None, Float[Array, "p k"] | None]


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


def _compiled(
    rows: Array, patches: IndexPatches, kernel: PackedKernel, window: Taps, epilogue: Epilogue
) -> Outputs:
    def run(kernel: PackedKernel) -> Outputs:
        return _run(rows, patches, kernel, window, epilogue)

    def run_plain(kernel: PackedKernel) -> Outputs:
        plain = kernel.plain()
        return run(dataclasses.replace(plain, weights=plain.weights.astype(rows.dtype)))

    if not (kernel.winograd or kernel.pairs):
        return run(kernel)
    # Where a program for several platforms is exported, they share their weights.
    return lax.platform_dependent(kernel, cpu=run, default=run_plain)


def _run(
    rows: Array, patches: IndexPatches, kernel: PackedKernel, window: Taps, epilogue: Epilogue
) -> Outputs:
    pixels, features = patches.num_outputs(window.extent, window.stride), kernel.features
    nothing = jnp.zeros(0, jnp.float32)
    residual = jnp.zeros((0, features), rows.dtype)
    second = epilogue.following is not None
    scale2, bias2 = epilogue.following or (nothing, nothing)
    operands = (
        rows,
        patches.means,
        patches.high,
        patches.low,
        patches.counts,
        kernel.weights,
        nothing if epilogue.scale is None else epilogue.scale,
        nothing if epilogue.bias is None else epilogue.bias,
        residual if epilogue.residual is None else epilogue.residual,
        scale2,
        bias2,
    )
    results = (
        ((pixels if epilogue.keep else 0, features), rows.dtype),
        ((pixels if second else 0, features), rows.dtype),
        ((patches.means.shape[0], rows.shape[1]), rows.dtype),
    )
    out, out2, _ = ffi_call.call(
        "segblocks_indexed_conv",
        operands,
        results,
        kh=kernel.size[0],
        kw=kernel.size[1],
        stride=window.stride,
        dilation=window.dilation,
        groups=kernel.features if kernel.depthwise else 1,
        activation=ACTIVATIONS.index(epilogue.activation),
        winograd=int(kernel.winograd > 0),
    )
    return (out if epilogue.keep else None), (out2 if second else None)


@functools.partial(jax.jit, static_argnames=("window",))
def _reference(
    rows: Array, patches: IndexPatches, kernel: PackedKernel, window: Taps, epilogue: Epilogue
) -> Outputs:
    high, low = (
        _convolve(part, kernel, window).reshape(-1, kernel.features)
        for part in gather(rows, patches)
    )
    # Low units follow the high ones that are live; with all live, this changes nothing.
    out = jnp.concatenate([high, low])
    if high.shape[0] and low.shape[0]:
        start = patches.counts[0] * (high.shape[0] // patches.high.shape[0])
        out = lax.dynamic_update_slice(out, low, (start, jnp.zeros_like(start)))
    return _finish(out, epilogue, rows.dtype)


def _convolve(maps: Array, kernel: PackedKernel, window: Taps) -> Array:
    # Sums of products of one tap round less than one long product: half the error at 9 x 64 terms.
    (kh, kw), (eh, ew), stride = window.size, window.extent, window.stride
    m, h, w, channels = maps.shape
    ho, wo = (h - eh) // stride + 1, (w - ew) // stride + 1
    weights = kernel.taps().astype(maps.dtype)
    out = jnp.zeros((m, ho, wo, kernel.features), jnp.float32)
    if not m:
        return out
    for i in range(kh):
        for j in range(kw):
            y, x = i * window.dilation, j * window.dilation
            stop = (m, y + stride * (ho - 1) + 1, x + stride * (wo - 1) + 1, channels)
            tap = lax.slice(maps, (0, y, x, 0), stop, (1, stride, stride, 1))
            weight = weights[i * kw + j]
            if kernel.depthwise:
                product = tap.astype(jnp.float32) * weight.astype(jnp.float32)[None, None, None]
            else:
                product = jnp.einsum(
                    "mhwc,ck->mhwk", tap, weight, preferred_element_type=jnp.float32
                )
            out = out + product
    return out


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
