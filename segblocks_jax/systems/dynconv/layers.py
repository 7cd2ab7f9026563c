"""Layers of masked networks: a convolution, a norm and an activation; and packed for the convolution by index."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segblocks_jax import nn
from segblocks_jax.ops import no_type_check
from segblocks_jax.ops.indexed_conv import Activation
from segblocks_jax.ops.mask_tables import PaddedWindow
from segblocks_jax.ops.packed_kernel import PANEL, PackedKernel, pack_kernel, winograd_stride
from segblocks_jax.ops.patches import Taps
from segblocks_jax.systems.dynconv.masks import MaskUnit


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution, a norm and an activation."""

    conv: nn.Conv
    norm: nn.BatchNorm | None = None
    activation: Activation = "none"

    @classmethod
    def of(cls, pair: Any, activation: Activation = "none") -> "Layer":
        """A layer of a list of convolution and norm."""
        conv, norm = pair
        return cls(conv, norm, activation)

    @property
    def window(self) -> PaddedWindow:
        """Of the convolution."""
        kh, kw = self.conv.kernel.shape[:2]
        return PaddedWindow(Taps((kh, kw), self.conv.stride, self.conv.dilation), self.conv.padding)


@jax.tree_util.register_dataclass
@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class PackedLayer:
    """A layer in evaluation: its kernel as `indexed_conv` reads it, its bias and norm as an epilogue's."""

    kernel: PackedKernel
    scale: Float[Array, "k"] | None
    bias: Float[Array, "k"] | None

    @classmethod
    def of(
        cls, layer: Layer, winograd: bool = False, dtype: jax.typing.DTypeLike = "float32"
    ) -> "PackedLayer":
        """Packs a layer for images of a dtype; `winograd` where the transform pays."""
        conv, norm = layer.conv, layer.norm
        kernel = conv.kernel[...].astype(dtype)
        stride = winograd_stride(kernel, conv.stride, conv.groups) if winograd else 0
        packed = pack_kernel(kernel, conv.groups, winograd=stride)
        bias = None if conv.bias is None else conv.bias[...]
        if norm is None:
            return cls(packed, None, bias)
        scale = norm.scale[...] * jax.lax.rsqrt(norm.var[...] + norm.eps)
        shift = norm.bias[...] - norm.mean[...] * scale
        return cls(packed, scale, shift if bias is None else shift + bias * scale)

    @classmethod
    def of_unit(cls, unit: MaskUnit, dtype: jax.typing.DTypeLike = "float32") -> "PackedLayer":
        """Packs what a mask unit multiplies each pixel by; whole panels are written faster."""
        kernel = unit.kernel().astype(dtype)
        kernel = jnp.pad(kernel, ((0, 0), (0, -kernel.shape[1] % PANEL)))
        return cls(pack_kernel(kernel[None, None]), None, None)
