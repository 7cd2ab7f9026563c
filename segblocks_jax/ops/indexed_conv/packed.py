"""PackedKernel: a convolution kernel in the order in which the handlers read it."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segblocks_jax.ops import extension
from segblocks_jax.ops.checks import no_type_check
from segblocks_jax.ops.indexed_conv import winograd as transform

PANEL = 16
"""Output channels that lie together in packed weights."""


@jax.tree_util.register_dataclass
@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class PackedKernel:
    """A convolution kernel in the order in which the handlers read it; pack it once, not a call.

    Attributes:
        weights: one group: (ceil(k / 16), kh kw c, 16), panels of 16 output channels, zeros beyond k.
            Depthwise: (kh kw, c). Transformed: taps of the transform instead of kh kw.
        size: (kh, kw).
        features: output channels k.
        depthwise: whether every channel is convolved alone.
        winograd: the stride for which the weights are transformed (see
            `segblocks_jax.ops.indexed_conv.winograd`); 0: they are plain, for any stride.
    """

    weights: Float[Array, "..."]
    size: tuple[int, int] = dataclasses.field(metadata={"static": True})
    features: int = dataclasses.field(metadata={"static": True})
    depthwise: bool = dataclasses.field(metadata={"static": True})
    winograd: int = dataclasses.field(default=0, metadata={"static": True})

    @property
    def channels(self) -> int:
        """Input channels c."""
        if self.depthwise:
            return self.features
        taps = (self.winograd + 3) ** 2 if self.winograd else self.size[0] * self.size[1]
        return self.weights.shape[1] // taps

    def plain(self) -> "PackedKernel":
        """The kernel without Winograd's transform, up to rounding."""
        if not self.winograd:
            return self
        panels = self.weights.shape[0]
        taps = self.weights.reshape(panels, -1, self.channels, PANEL)
        inverse = transform.inverse(self.winograd)
        weights = jnp.einsum("ut,ptcl->pucl", inverse, taps, precision="highest")
        return dataclasses.replace(self, weights=weights.reshape(panels, -1, PANEL), winograd=0)


def winograd_stride(kernel: Float[Array, "kh kw _ k"], stride: int, groups: int = 1) -> int:
    """What `pack_kernel` should get as `winograd` where the kernel is packed ahead of many calls.

    Its stride on CPUs with compiled handlers, where the transform was faster by 1.1 to 2 from 16 channels on
    (docs/performance.md); else 0.
    """
    kh, kw, channels, _ = kernel.shape
    fits = (kh, kw) == (3, 3) and groups == 1 and kernel.dtype == "float32"
    pays = fits and stride in transform.STRIDES and channels >= 16
    compiled = jax.default_backend() == "cpu" and extension.resolve() == "ffi"
    return stride if pays and compiled else 0


def pack_kernel(
    kernel: Float[Array, "kh kw _ k"], groups: int = 1, *, winograd: int = 0
) -> PackedKernel:
    """Packs a kernel (HWIO) of one group, or of one group a channel.

    Args:
        kernel: of the dtype of the rows that it will meet.
        groups: 1, or the number of channels.
        winograd: 0, or the stride, 1 or 2, for which to transform a float32 kernel of 3 x 3 and one
            group: fewer products, larger weights; see `winograd_stride`.

    Raises:
        ValueError: any other number of groups, or a kernel that can't be transformed.
    """
    kh, kw, channels, features = kernel.shape
    if groups == features and channels == 1 and groups > 1:
        return PackedKernel(kernel.reshape(kh * kw, features), (kh, kw), features, depthwise=True)
    if groups != 1:
        raise ValueError(
            f"pack_kernel: {groups} groups of {channels} channels; expected 1 group, or as many groups as"
            " output channels with 1 channel each"
        )
    if winograd:
        if winograd not in transform.STRIDES or (kh, kw) != (3, 3) or kernel.dtype != "float32":
            raise ValueError(
                f"pack_kernel: winograd={winograd} and a {kernel.dtype} kernel of {kh} x {kw}; expected"
                f" one of {transform.STRIDES} and float32 of 3 x 3, or winograd=0"
            )
        kernel = jnp.einsum(
            "tu,uck->tck",
            transform.forward(winograd),
            kernel.reshape(9, channels, features),
            precision="highest",
        )
    rows = kernel.size // features
    padded = jnp.pad(kernel.reshape(rows, features), ((0, 0), (0, -features % PANEL)))
    panels = padded.reshape(rows, -1, PANEL).swapaxes(0, 1)
    return PackedKernel(panels, (kh, kw), features, depthwise=False, winograd=winograd)
