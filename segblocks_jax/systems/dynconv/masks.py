"""Mask units, which say where a residual block computes."""

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

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
        logits = self._shifted(
            jnp.einsum("nhwc,ct->nhwt", x, self._taps(x.dtype), precision="highest")
        )
        record(logits.size * (self.conv.kernel.size + 1))
        if self.fc is None:
            return logits
        with nn.scope("fc"):
            return logits + self.fc(x.mean((1, 2)))[:, :, None]

    def kernel(self) -> Float[Array, "c t"]:
        """What `logits` takes the products of a pixel with: the convolution's taps, and the linear function."""
        taps = self._taps(self.conv.kernel.dtype)
        return taps if self.fc is None else jnp.concatenate([taps, self.fc.kernel[...]], 1)

    def logits(self, products: Float[Array, "n h w t"]) -> Float[Array, "n ho wo"]:
        """What the unit gives for an input of whose pixels these are the products with `kernel`; more are ignored."""
        taps = math.prod(self.conv.kernel.shape[:2])
        logits = self._shifted(products[..., :taps])
        if self.fc is None:
            return logits
        linear = products[..., taps].mean((1, 2)) + self.fc.bias[...].astype(products.dtype)
        return logits + linear[:, None, None]

    def _taps(self, dtype: jax.typing.DTypeLike) -> Float[Array, "c t"]:
        kernel = self.conv.kernel[...].astype(dtype)
        return kernel.reshape(-1, kernel.shape[2]).T

    def _shifted(self, products: Float[Array, "n h w t"]) -> Float[Array, "n ho wo"]:
        """A convolution to one channel, as the products of all taps at every pixel and a sum of shifted maps.

        Convolutions work on many output channels at a time; of those only one would be of use.
        """
        conv = self.conv
        (kh, kw), stride, (py, px) = conv.kernel.shape[:2], conv.stride, conv.padding
        products = jnp.pad(products, ((0, 0), (py, py), (px, px), (0, 0)))
        n, h, w, _ = products.shape
        ho, wo = (h - kh) // stride + 1, (w - kw) // stride + 1
        out = jnp.zeros((n, ho, wo), products.dtype)
        for t in range(kh * kw):
            y, z = divmod(t, kw)
            stop = (n, y + stride * (ho - 1) + 1, z + stride * (wo - 1) + 1, t + 1)
            tap = jax.lax.slice(products, (0, y, z, t), stop, (1, stride, stride, 1))
            out = out + tap[..., 0]
        assert conv.bias is not None
        return out + conv.bias[...].astype(products.dtype)[None, None]
