"""indexed_conv: convolution of a packed list whose rows are found by index; checks and the compiled call."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from segblocks_jax.ops import extension, ffi_call
from segblocks_jax.ops.indexed_conv import reference
from segblocks_jax.ops.indexed_conv.operands import ACTIVATIONS, Epilogue, PackedKernel
from segblocks_jax.ops.patches import IndexPatches


@jax.named_scope("indexed_conv")
def indexed_conv(
    rows: Float[Array, "r c"],
    patches: IndexPatches,
    kernel: PackedKernel,
    stride: int = 1,
    epilogue: Epilogue | None = None,
    *,
    implementation: str | None = None,
) -> tuple[Float[Array, "p k"] | None, Float[Array, "p k"] | None]:
    """Convolves patches of rows that are found by index, without padding, accumulating in float32.

    A unit of `patches` of (height, width) gives ``(height - kh) // stride + 1`` times
    ``(width - kw) // stride + 1`` output pixels, row by row; units follow each other, high ones first.
    Not differentiable in itself; `segblocks_jax.block_conv` is.

    Args:
        rows: the pixel list, float32 or bfloat16.
        patches: where each unit's pixels are.
        kernel: see `pack_kernel`; of the rows' dtype.
        stride: of the window, in both directions.
        epilogue: what follows; default: nothing.
        implementation: "ffi", "reference", or None for the compiled handler where there is one.

    Returns:
        The output, or None where `Epilogue.keep` is False; and the second output, or None.

    Raises:
        TypeError: kernel and rows of different dtypes.
        ValueError: sizes that don't fit together, or "xla", whose convolution finds nothing by index.
    """
    if implementation == "xla":
        raise ValueError("indexed_conv: XLA has no convolution by index; use 'ffi' or 'reference'")
    epilogue = epilogue or Epilogue()
    _check(rows, patches, kernel, stride, epilogue)
    run = _compiled if extension.resolve(implementation) == "ffi" else reference.indexed_conv
    return run(rows, patches, kernel, stride, epilogue)


def _check(
    rows: Array, patches: IndexPatches, kernel: PackedKernel, stride: int, epilogue: Epilogue
) -> None:
    if kernel.weights.dtype != rows.dtype:
        raise TypeError(
            f"indexed_conv: the kernel is {kernel.weights.dtype}, the rows are {rows.dtype}; cast one of them"
        )
    if kernel.channels != rows.shape[1]:
        raise ValueError(
            f"indexed_conv: the kernel takes {kernel.channels} channels, the rows have {rows.shape[1]}"
        )
    if stride < 1:
        raise ValueError(f"indexed_conv: stride is {stride}; expected at least 1")
    if kernel.winograd not in (0, stride):
        raise ValueError(
            f"indexed_conv: the kernel is transformed for stride {kernel.winograd}, the stride is {stride};"
            f" pack it with winograd={stride}, or 0"
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
        if units and (height < kernel.size[0] or width < kernel.size[1]):
            raise ValueError(
                f"indexed_conv: patches of {height} x {width} are smaller than the {kernel.size} kernel"
            )
    expected = (patches.num_outputs(kernel.size, stride), kernel.features)
    if epilogue.residual is not None and epilogue.residual.shape != expected:
        raise ValueError(
            f"indexed_conv: residual has shape {epilogue.residual.shape}; expected {expected}"
        )
    vectors = [epilogue.scale, epilogue.bias, *(epilogue.following or ())]
    for vector in vectors:
        if vector is not None and vector.shape != expected[1:]:
            raise ValueError(
                f"indexed_conv: a scale or bias has shape {vector.shape}; expected {expected[1:]}"
            )


def _compiled(
    rows: Float[Array, "r c"],
    patches: IndexPatches,
    kernel: PackedKernel,
    stride: int,
    epilogue: Epilogue,
) -> tuple[Float[Array, "p k"] | None, Float[Array, "p k"] | None]:
    def run(kernel: PackedKernel) -> tuple[Array | None, Array | None]:
        return _run(rows, patches, kernel, stride, epilogue)

    if not kernel.winograd:
        return run(kernel)
    # Where a program for several platforms is exported, they share their weights.
    return lax.platform_dependent(kernel, cpu=run, default=lambda kernel: run(kernel.plain()))


def _run(
    rows: Array, patches: IndexPatches, kernel: PackedKernel, stride: int, epilogue: Epilogue
) -> tuple[Array | None, Array | None]:
    pixels, features = patches.num_outputs(kernel.size, stride), kernel.features
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
    attributes = (
        ("kh", kernel.size[0]),
        ("kw", kernel.size[1]),
        ("stride", stride),
        ("groups", kernel.features if kernel.depthwise else 1),
        ("activation", ACTIVATIONS.index(epilogue.activation)),
        ("winograd", int(kernel.winograd > 0)),
    )
    out, out2, _ = ffi_call.call("segblocks_indexed_conv", operands, results, attributes)
    return (out if epilogue.keep else None), (out2 if second else None)
