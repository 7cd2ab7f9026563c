"""indexed_conv on the compiled handlers."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from segblocks_jax.ops import ffi_call
from segblocks_jax.ops.indexed_conv.epilogue import ACTIVATIONS, Epilogue
from segblocks_jax.ops.indexed_conv.packed import PackedKernel
from segblocks_jax.ops.patches import IndexPatches


def indexed_conv(
    rows: Float[Array, "r c"],
    patches: IndexPatches,
    kernel: PackedKernel,
    stride: int,
    epilogue: Epilogue,
) -> tuple[Float[Array, "p k"] | None, Float[Array, "p k"] | None]:
    """See `segblocks_jax.ops.indexed_conv.api.indexed_conv`."""

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
