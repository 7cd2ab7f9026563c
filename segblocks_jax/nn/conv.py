"""Convolution of images and of blocks."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax.blocks import DualRes, block_conv
from segblocks_jax.nn.block_options import BlockOptions
from segblocks_jax.nn.block_size import Probe
from segblocks_jax.nn.recording import recordable
from segblocks_jax.nn.regions import Features
from segblocks_jax.nn.scope import record
from segblocks_jax.ops.image_conv import image_conv

_HE_NORMAL = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")


class Conv(nnx.Module):
    """2-D convolution with zero padding around the image and, in blocks, the neighbors' pixels inside.

    Computes in the dtype of its input; parameters stay float32.

    Attributes:
        kernel: (kh, kw, in_features / groups, out_features).
        bias: (out_features,) or None.
        semantics: `BlockOptions.padding` says what blocks are padded with.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] | None = None,
        groups: int = 1,
        dilation: int = 1,
        use_bias: bool = False,
        kernel_init: nnx.Initializer = _HE_NORMAL,
        semantics: BlockOptions | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        """Draws the kernel from `kernel_init`; biases start at 0. Sizes: of both axes, or (vertical, horizontal).

        Without `padding`, it keeps the size at stride 1: ``dilation * (k - 1) // 2``.
        """
        kh, kw = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
        shape = (kh, kw, in_features // groups, out_features)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(out_features, jnp.float32)) if use_bias else None
        self.stride = stride
        same = dilation * (kh - 1) // 2, dilation * (kw - 1) // 2
        given = (padding, padding) if isinstance(padding, int) else padding
        self.padding = same if given is None else given
        self.groups = groups
        self.dilation = dilation
        self.semantics = semantics or BlockOptions()

    @recordable
    def __call__(self, features: Features) -> Features:
        """Convolves."""
        if isinstance(features, Probe):
            return features.through(self.stride, max(self.padding), self.dilation)
        if isinstance(features, DualRes):
            kernel, bias = self._parameters(features.pixels.dtype)
            return block_conv(
                features,
                kernel,
                self.stride,
                self.padding,
                self.groups,
                bias,
                dilation=self.dilation,
                padding_mode=self.semantics.padding,
            )
        kernel, bias = self._parameters(features.dtype)
        out = image_conv(
            features, kernel, self.stride, self.padding, self.groups, dilation=self.dilation
        )
        self._record(out)
        return out if bias is None else out + bias[None, None, None]

    def _parameters(self, dtype: jnp.dtype) -> tuple[Array, Array | None]:
        bias = None if self.bias is None else self.bias[...].astype(dtype)
        return self.kernel[...].astype(dtype), bias

    def _record(self, out: Float[Array, "n h w k"]) -> None:
        kh, kw, channels, _ = self.kernel.shape
        record(out.size * (kh * kw * channels + (self.bias is not None)))
