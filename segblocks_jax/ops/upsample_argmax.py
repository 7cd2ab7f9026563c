"""upsample_argmax: the best class of every pixel of enlarged logits."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt8

from segblocks_jax.ops import extension, ffi_call
from segblocks_jax.ops.ffi_call import check_dtype
from segblocks_jax.ops.upsample2 import upsample_bilinear

COMPILED_FACTORS = (2, 4, 8)
_MOST_CLASSES = 256
_STRIP_ROWS = 4  # Rows of logits that the reference enlarges at a time.


@jax.named_scope("upsample_argmax")
def upsample_argmax(
    logits: Float[Array, "n h w k"], factor: int = 4, *, implementation: str | None = None
) -> UInt8[Array, "n h*{factor} w*{factor}"]:
    """Best class of every pixel of bilinearly upsampled logits, which are never in memory as a whole.

    ``upsample_bilinear(logits.astype(float32), factor).argmax(-1)``: half-pixel centers, clamped at
    the image's border, float32 arithmetic; of equal classes the lowest. A NaN never wins: where no
    class is above minus infinity, the label is 0. Not differentiable.

    The implementations round alike up to float32's last bits, so that they may differ where two
    classes are that close.

    Args:
        logits: of 1 to 256 classes, float32, bfloat16 or float16.
        factor: how many labels a pixel becomes along each axis. The compiled handlers have 2, 4 and 8.
        implementation: "ffi", "xla", or None for the compiled handler where there is one.

    Raises:
        TypeError: wrong dtype.
        ValueError: number of classes or factor out of range, or a factor that "ffi" doesn't have.
    """
    logits = check_dtype("upsample_argmax", "logits", logits)
    n, h, w, k = logits.shape
    if not 1 <= k <= _MOST_CLASSES:
        raise ValueError(
            f"upsample_argmax: logits of shape {logits.shape} have {k} classes; expected 1 to {_MOST_CLASSES},"
            " since labels are uint8"
        )
    if factor < 1:
        raise ValueError(f"upsample_argmax: factor is {factor}; expected 1 or more")
    compiled = extension.resolve(implementation) == "ffi"
    if compiled and factor not in COMPILED_FACTORS:
        if implementation is not None:
            raise ValueError(
                f"upsample_argmax: factor is {factor}; implementation 'ffi' has 2, 4 and 8; or use 'xla'"
            )
        compiled = False
    if not compiled:
        return _reference(logits, factor)
    result = ((n, h * factor, w * factor), jnp.uint8)
    (labels,) = ffi_call.call("segblocks_upsample_argmax", (logits,), [result], factor=factor)
    return labels


def _reference(logits: Array, factor: int) -> Array:
    n, h, w, k = logits.shape
    if not logits.size:
        return jnp.zeros((n, h * factor, w * factor), jnp.uint8)
    strips = -(-h // _STRIP_ROWS)
    # A row more at each end: repeated at the border, as clamping does; then rows that are cut off.
    filled = strips * _STRIP_ROWS + 1 - h
    rows = jnp.pad(logits, ((0, 0), (1, filled), (0, 0), (0, 0)), mode="edge")

    def strip(index: Array) -> Array:
        size = (1, _STRIP_ROWS + 2, w, k)
        start = (index // strips, index % strips * _STRIP_ROWS, 0, 0)
        wide = upsample_bilinear(lax.dynamic_slice(rows, start, size).astype(jnp.float32), factor)
        wide = wide[0, factor:-factor]
        return jnp.where(jnp.isnan(wide), -jnp.inf, wide).argmax(-1).astype(jnp.uint8)

    labels = lax.map(strip, jnp.arange(n * strips))
    return labels.reshape(n, strips * _STRIP_ROWS * factor, w * factor)[:, : h * factor]
