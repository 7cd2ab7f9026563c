"""PackedKernel: a convolution kernel in the order in which the handlers read it."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segblocks_jax.blocks.checks import no_type_check

PANEL = 16
"""Output channels that lie together in packed weights."""


@jax.tree_util.register_dataclass
@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class PackedKernel:
    """A convolution kernel in the order in which the handlers read it; pack it once, not a call.

    Attributes:
        weights: one group: (ceil(k / 16), kh kw c, 16), panels of 16 output channels, zeros beyond k.
            Depthwise: (kh kw, c).
        size: (kh, kw).
        features: output channels k.
        depthwise: whether every channel is convolved alone.
    """

    weights: Float[Array, "..."]
    size: tuple[int, int] = dataclasses.field(metadata={"static": True})
    features: int = dataclasses.field(metadata={"static": True})
    depthwise: bool = dataclasses.field(metadata={"static": True})

    @property
    def channels(self) -> int:
        """Input channels c."""
        if self.depthwise:
            return self.features
        return self.weights.shape[1] // (self.size[0] * self.size[1])


def pack_kernel(kernel: Float[Array, "kh kw _ k"], groups: int = 1) -> PackedKernel:
    """Packs a kernel (HWIO) of one group, or of one group a channel.

    Raises:
        ValueError: any other number of groups.
    """
    kh, kw, channels, features = kernel.shape
    if groups == features and channels == 1 and groups > 1:
        return PackedKernel(kernel.reshape(kh * kw, features), (kh, kw), features, depthwise=True)
    if groups != 1:
        raise ValueError(
            f"pack_kernel: {groups} groups of {channels} channels; expected 1 group, or as many groups as"
            " output channels with 1 channel each"
        )
    rows = kh * kw * channels
    padded = jnp.pad(kernel.reshape(rows, features), ((0, 0), (0, -features % PANEL)))
    panels = padded.reshape(rows, -1, PANEL).swapaxes(0, 1)
    return PackedKernel(panels, (kh, kw), features, depthwise=False)
