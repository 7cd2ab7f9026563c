"""Gradients of convolutions by the compiled handlers of CPUs, where XLA's own take most of a training step."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from segblocks_jax.ops import ffi_call
from segblocks_jax.ops.indexed_conv import indexed_conv
from segblocks_jax.ops.packed_kernel import pack_kernel
from segblocks_jax.ops.patches import IndexPatches, Taps


@jax.named_scope("input_gradient")
def input_gradient(
    cotangents: Float[Array, "m ho wo k"],
    kernel: Float[Array, "kh kw _ k"],
    sides: tuple[int, int],
    window: Taps,
    before: tuple[int, int],
) -> Float[Array, "m h w c"]:
    """The gradient of a convolution by its input: a convolution of the cotangents with the turned kernel.

    Args:
        cotangents: of the outputs; with a stride, zeros stand between them, which take no memory.
        kernel: of one group, or of one group per channel.
        sides: (h, w) of the maps without their padding.
        window: of the convolution.
        before: (vertical, horizontal) pixels of zero padding before the first window's first tap reads the maps;
            negative where windows begin behind the first pixel.
    """
    m, ho, wo, features = cotangents.shape
    groups = features if kernel.shape[2] == 1 and features > 1 else 1
    turned = kernel[::-1, ::-1] if groups > 1 else kernel[::-1, ::-1].swapaxes(2, 3)
    channels = turned.shape[3]
    if not m:
        return jnp.zeros((0, *sides, channels), cotangents.dtype)
    around = [(0, 0, 0)]
    for number, side, reach, first in zip(
        (ho, wo), sides, (window.extent[0] - 1, window.extent[1] - 1), before, strict=True
    ):
        start = reach - first
        around.append(
            (start, side + reach - start - window.stride * (number - 1) - 1, window.stride - 1)
        )
    rows = jnp.arange(m * ho * wo, dtype=jnp.int32).reshape(m, ho, wo)
    patches = IndexPatches(
        high=lax.pad(rows, jnp.int32(-1), around),
        low=jnp.zeros((0, *window.extent), jnp.int32),
        means=jnp.zeros((0, 1), jnp.int32),
        counts=jnp.array([m, 0], jnp.int32),
    )
    out, _ = indexed_conv(
        cotangents.reshape(-1, features),
        patches,
        pack_kernel(turned, groups),
        dilation=window.dilation,
        implementation="ffi",
    )
    assert out is not None
    return out.reshape(m, *sides, channels)


@jax.named_scope("depthwise_gradient")
def depthwise_gradient(
    rows: Float[Array, "r c"],
    patches: IndexPatches,
    cotangents: Float[Array, "p c"],
    window: Taps,
) -> Float[Array, "kh kw 1 c"]:
    """The gradient of a depthwise `indexed_conv` by its kernel, summed up in float32, in an order that is fixed.

    Args:
        rows: of the convolution, float32.
        patches: of the convolution.
        cotangents: of its outputs.
        window: of the convolution.
    """
    taps, channels = window.size[0] * window.size[1], rows.shape[1]
    kernel, _ = ffi_call.call(
        "segblocks_depthwise_gradient",
        (rows, patches.means, patches.high, patches.low, patches.counts, cotangents),
        (
            ((taps, channels), jnp.float32),
            ((patches.means.shape[0], channels), jnp.float32),
        ),
        kh=window.size[0],
        kw=window.size[1],
        stride=window.stride,
        dilation=window.dilation,
    )
    return kernel.reshape(*window.size, 1, channels)
