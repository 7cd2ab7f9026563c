"""Mask units and dilation: where a residual block computes, and what its first convolution must compute for that."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Shaped

from segblocks_jax import nn
from segblocks_jax.errors import InputError
from segblocks_jax.nn.initial import small_uniform
from segblocks_jax.nn.scope import record

MaskKind = Literal["squeeze", "pointwise"]
MASK_KINDS: tuple[MaskKind, ...] = get_args(MaskKind)


class MaskUnit(nnx.Module):
    """Gives a logit for every output pixel of a residual block, from the block's input.

    "squeeze", for classification: a 3x3 convolution to one channel, plus a linear function of the input's mean over
    the image. "pointwise", for pose: a 1x1 convolution.

    Attributes:
        deterministic: True in evaluation, where masks are ``logits >= 0``; set by `flax.nnx.Module.train` and `eval`.

    Source: Verelst and Tuytelaars (arXiv 1912.03203).
    """

    def __init__(self, features: int, stride: int, kind: MaskKind, *, rngs: nnx.Rngs) -> None:
        """Of a block with the `stride`. Raises InputError for an unknown kind."""
        if kind not in MASK_KINDS:
            raise InputError(f"MaskUnit: kind is {kind!r}; expected one of {MASK_KINDS}")
        squeeze = kind == "squeeze"
        self.conv = nn.Conv(
            features,
            1,
            3 if squeeze else 1,
            stride=stride,
            use_bias=True,
            kernel_init=small_uniform,
            rngs=rngs,
        )
        self.fc = nn.Linear(features, 1, rngs=rngs) if squeeze else None
        self.deterministic = False

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n ho wo"]:
        """The block's input -> logits, of its output's size."""
        logits = _to_one_channel(x, self.conv)
        if self.fc is None:
            return logits
        with nn.scope("fc"):
            return logits + self.fc(x.mean((1, 2)))[:, :, None]


def _to_one_channel(x: Float[Array, "n h w c"], conv: nn.Conv) -> Float[Array, "n ho wo"]:
    """A convolution to one channel, as the products of all taps at every pixel and a sum of shifted maps.

    Convolutions work on many output channels at a time; of those only one would be of use.
    """
    (kh, kw), stride, (py, px) = conv.kernel.shape[:2], conv.stride, conv.padding
    kernel = conv.kernel[...].astype(x.dtype).reshape(kh * kw, -1)
    products = jnp.einsum("nhwc,tc->nhwt", x, kernel, precision="highest")
    products = jnp.pad(products, ((0, 0), (py, py), (px, px), (0, 0)))
    n, h, w, _ = products.shape
    ho, wo = (h - kh) // stride + 1, (w - kw) // stride + 1
    out = jnp.zeros((n, ho, wo), x.dtype)
    for t in range(kh * kw):
        y, z = divmod(t, kw)
        stop = (n, y + stride * (ho - 1) + 1, z + stride * (wo - 1) + 1, t + 1)
        tap = jax.lax.slice(products, (0, y, z, t), stop, (1, stride, stride, 1))
        out = out + tap[..., 0]
    record(out.size * (conv.kernel.size + 1))
    assert conv.bias is not None
    return out + conv.bias[...].astype(x.dtype)[None, None]


def dilate(mask: Shaped[Array | np.ndarray, "..."], stride: int = 1) -> Bool[Array, "n sh sw"]:
    """The pixels that 3x3 windows around a mask's active pixels read.

    Active pixel (i, j) activates ``stride * i + a, stride * j + b`` for a and b in -1, 0, 1, within a mask `stride`
    times as large. No gradient flows through it.

    Args:
        mask: bool, or numbers, active where above 0.5.
        stride: of the convolution from the dilated mask's pixels to the mask's.

    Raises:
        InputError: the mask has no three axes, or the stride is below 1.
    """
    mask = jnp.asarray(mask)
    if mask.ndim != 3:
        raise InputError(f"dilate: mask has shape {mask.shape}; expected (n, h, w)")
    if stride < 1:
        raise InputError(f"dilate: stride is {stride}; expected at least 1")
    active = mask if mask.dtype == bool else mask > jnp.asarray(0.5, mask.dtype)
    between = (0, stride - 1, stride - 1)
    active = jax.lax.pad(active, jnp.bool_(False), [(0, 0, 0), between, between])
    for axis in (1, 2):
        side = active.shape[axis]
        around = [(1, 1) if i == axis else (0, 0) for i in range(3)]
        padded = jnp.pad(active, around)
        first, middle, last = (
            jax.lax.slice_in_dim(padded, i, i + side, axis=axis) for i in range(3)
        )
        active = first | middle | last
    return active
