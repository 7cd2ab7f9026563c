"""quantized_conv: convolution of a packed list of bytes whose rows are found by index, with whole-number sums."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Shaped, UInt8

from segblocks_jax.ops import extension, ffi_call, no_type_check
from segblocks_jax.ops.convolved import convolved, in_order
from segblocks_jax.ops.patches import IndexPatches, Taps, gather_bytes
from segblocks_jax.ops.quantized_kernel import QuantizedKernel

Outputs = tuple[Shaped[Array, "p k"] | None, Shaped[Array, "p k"] | None]
_NEVER = 3e38  # What no product reaches.


@jax.tree_util.register_dataclass
@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class QuantizedEpilogue:
    """What follows the sums before a result is stored: float32 arithmetic, each product and sum rounded.

    ``y = clip(sums * scale + bias + residual * limits[0], limits[1], limits[2])``, and for a layer that normalizes
    first ``relu(y * following[0] + following[1])``. A result that is stored in bytes is rounded to the nearest whole
    number, to even ones in the middle, and clipped to 0 .. 255; NaN becomes 0.

    Attributes:
        scale, bias: (k,).
        limits: (3,): what the residual is multiplied with, and the bounds of y.
        residual: (p, k), bytes or float32, like the output; None: there is none.
        following: (scale, bias) of the second output; None: there is none.
        out, second: how the outputs are stored, "uint8" or "float32"; None: not at all.
    """

    scale: Float[Array, "k"]
    bias: Float[Array, "k"]
    limits: Float[Array, "3"]
    residual: Shaped[Array, "p k"] | None = None
    following: tuple[Float[Array, "k"], Float[Array, "k"]] | None = None
    out: str | None = dataclasses.field(default="uint8", metadata={"static": True})
    second: str | None = dataclasses.field(default=None, metadata={"static": True})


@jax.named_scope("quantized_conv")
def quantized_conv(
    rows: Shaped[Array, "r c"],
    zero: UInt8[Array, "1"],
    patches: IndexPatches,
    kernel: QuantizedKernel,
    epilogue: QuantizedEpilogue,
    stride: int = 1,
    *,
    dilation: int = 1,
    implementation: str | None = None,
) -> Outputs:
    """Convolves patches of rows of bytes; `indexed_conv` says which outputs there are, and in which order.

    Sums are whole numbers, the same in all implementations, and so is what is made of them.

    Args:
        rows: the pixel list, uint8.
        zero: the byte that pixels outside the image count as; products with it are part of the sums.
        patches: where each unit's pixels are. A halo mean is rounded to the nearest byte, up in the middle.
        kernel: see `segblocks_jax.ops.quantized_kernel.quantize_kernel`.
        epilogue: what follows.
        stride: of the window, in both directions.
        dilation: distance of neighboring taps of the kernel.
        implementation: "ffi", "reference", or None for the compiled handler where there is one.

    Returns:
        The output and the second one; None where the epilogue has none.

    Raises:
        TypeError: rows that are not bytes.
        ValueError: sizes that don't fit together, or "xla", whose convolution finds nothing by index.
    """
    if implementation == "xla":
        raise ValueError(
            "quantized_conv: XLA has no convolution by index; use 'ffi' or 'reference'"
        )
    window = Taps(kernel.size, stride, dilation)
    _check(rows, patches, kernel, window, epilogue)
    if extension.resolve(implementation) != "ffi":
        return _reference(rows, zero, patches, kernel, window, epilogue)
    # Where a program for several platforms is exported, the others run the definition.
    return lax.platform_dependent(
        rows,
        zero,
        patches,
        kernel,
        epilogue,
        cpu=functools.partial(_compiled, window=window),
        default=functools.partial(_reference_of, window=window),
    )


def _check(
    rows: Array,
    patches: IndexPatches,
    kernel: QuantizedKernel,
    window: Taps,
    epilogue: QuantizedEpilogue,
) -> None:
    if rows.dtype != "uint8" or kernel.weights.dtype != "int8":
        raise TypeError(
            f"quantized_conv: the rows are {rows.dtype}, the kernel {kernel.weights.dtype}; expected uint8 and int8"
        )
    if kernel.channels != rows.shape[1]:
        raise ValueError(
            f"quantized_conv: the kernel takes {kernel.channels} channels, the rows have {rows.shape[1]}"
        )
    if min(window.stride, window.dilation) < 1:
        raise ValueError(
            f"quantized_conv: stride is {window.stride}, dilation {window.dilation}; expected >= 1"
        )
    stored = {None, "uint8", "float32"}
    if {epilogue.out, epilogue.second} - stored or epilogue.out == epilogue.second is None:
        raise ValueError(
            f"quantized_conv: the outputs are {epilogue.out!r} and {epilogue.second!r}; expected 'uint8', 'float32'"
            " or None, and not None for both"
        )
    if (epilogue.second is None) != (epilogue.following is None):
        raise ValueError(
            "quantized_conv: a second output needs its scale and bias, and they need it"
        )
    for units, height, width in (patches.high.shape, patches.low.shape):
        if units and (height < window.extent[0] or width < window.extent[1]):
            raise ValueError(
                f"quantized_conv: patches of {height} x {width} are smaller than the {kernel.size} kernel of"
                f" dilation {window.dilation}"
            )
    expected = (patches.num_outputs(window.extent, window.stride), kernel.features)
    if epilogue.residual is not None and epilogue.residual.shape != expected:
        raise ValueError(
            f"quantized_conv: residual has shape {epilogue.residual.shape}; expected {expected}"
        )
    for vector in (epilogue.scale, epilogue.bias, *(epilogue.following or ())):
        if vector.shape != expected[1:]:
            raise ValueError(
                f"quantized_conv: a scale or bias has shape {vector.shape}; expected {expected[1:]}"
            )


def _compiled(
    rows: Array,
    zero: Array,
    patches: IndexPatches,
    kernel: QuantizedKernel,
    epilogue: QuantizedEpilogue,
    *,
    window: Taps,
) -> Outputs:
    pixels, features = patches.num_outputs(window.extent, window.stride), kernel.features
    nothing, second = jnp.zeros(0, jnp.float32), epilogue.second is not None
    scale2, bias2 = epilogue.following or (nothing, nothing)
    residual = epilogue.residual
    out, out2, _ = ffi_call.call(
        "segblocks_quantized_conv",
        (
            rows,
            patches.means,
            patches.high,
            patches.low,
            patches.counts,
            zero,
            kernel.weights,
            epilogue.scale,
            epilogue.bias,
            epilogue.limits,
            jnp.zeros((0, features), jnp.float32) if residual is None else residual,
            scale2,
            bias2,
        ),
        (
            ((pixels if epilogue.out else 0, features), epilogue.out or "float32"),
            ((pixels if second else 0, features), epilogue.second or "float32"),
            ((patches.means.shape[0], rows.shape[1]), rows.dtype),
        ),
        kh=kernel.size[0],
        kw=kernel.size[1],
        stride=window.stride,
        dilation=window.dilation,
        groups=kernel.features if kernel.depthwise else 1,
    )
    return (out if epilogue.out else None), (out2 if second else None)


@functools.partial(jax.jit, static_argnames=("window",))
def _reference(
    rows: Array,
    zero: Array,
    patches: IndexPatches,
    kernel: QuantizedKernel,
    window: Taps,
    epilogue: QuantizedEpilogue,
) -> Outputs:
    taps = kernel.taps().astype(jnp.int32)
    high, low = (
        convolved(part.astype(jnp.int32), taps, window, "int32")
        for part in gather_bytes(rows, zero, patches)
    )
    sums = in_order(high, low, patches).astype(jnp.float32)
    y = _product(sums, epilogue.scale[None]) + epilogue.bias[None]
    if epilogue.residual is not None:
        y = y + _product(epilogue.residual.astype(jnp.float32), epilogue.limits[0])
    y = jnp.clip(y, epilogue.limits[1], epilogue.limits[2])
    second = None
    if epilogue.following is not None:
        scale, bias = epilogue.following
        second = _stored(jax.nn.relu(_product(y, scale[None]) + bias[None]), epilogue.second)
    return _stored(y, epilogue.out), second


def _reference_of(*operands: Any, window: Taps) -> Outputs:
    return _reference(*operands[:-1], window, operands[-1])


def _product(a: Array, b: Array) -> Array:
    # XLA's CPU compiler would round a product and the sum that it goes into as one, were they not held apart.
    return jnp.clip(a * b, -_NEVER, _NEVER)


def _stored(y: Array, dtype: str | None) -> Array | None:
    if dtype != "uint8":
        return None if dtype is None else y
    return jnp.minimum(jnp.rint(jnp.where(y > 0, y, 0)), 255).astype(jnp.uint8)
