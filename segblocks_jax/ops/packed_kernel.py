"""PackedKernel: a kernel in the order in which `indexed_conv` reads it, transformed where that pays."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from segblocks_jax.ops import extension, no_type_check

# Winograd's minimal filtering of 3 x 3 kernels, for squares of 2 x 2 outputs: the kernel's part. Of stride 1,
# F(2 x 2, 3 x 3) of Lavin and Gray, "Fast algorithms for convolutional neural networks" (2016): 16 products
# instead of 36. Of stride 2, along each axis the even taps are F(2, 2) and the odd one is plain: 25 products.
# Along one axis: the transformed taps, and those that each point sums up.
_TAPS = {
    1: np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]),
    2: np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 1, 0], [0, 0, 1]]),
}
_POINTS = {1: ([0], [1], [2], [3]), 2: ([0, 1], [2], [3, 4])}
# The kernel from its transformed taps.
_INVERSE = {
    1: np.array([[1, 0, 0, 0], [0, 1, -1, 0], [0, 0, 0, 1]]),
    2: np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1]]),
}
STRIDES = tuple(_TAPS)
PANEL = 16
"""Output channels that lie together in packed weights."""


@jax.tree_util.register_dataclass
@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class PackedKernel:
    """A convolution kernel in the order in which the handlers read it; pack it once, not in every call.

    Attributes:
        weights: one group: (ceil(k / 16), kh kw c, 16), panels of 16 output channels, zeros beyond k.
            Depthwise: (kh kw, c). Transformed: taps of the transform instead of kh kw.
        size: (kh, kw).
        features: output channels k.
        depthwise: whether every channel is convolved alone.
        winograd: the stride for which the weights are transformed (see
            `segblocks_jax.ops.packed_kernel`); 0: they are plain, for any stride.
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
        """The kernel without the Winograd transform, up to rounding."""
        if not self.winograd:
            return self
        panels = self.weights.shape[0]
        taps = self.weights.reshape(panels, -1, self.channels, PANEL)
        inverse = winograd_inverse(self.winograd)
        weights = jnp.einsum("ut,ptcl->pucl", inverse, taps, precision="highest")
        return dataclasses.replace(self, weights=weights.reshape(panels, -1, PANEL), winograd=0)

    def taps(self) -> Float[Array, "t ..."]:
        """The plain weights of each tap, row by row: (kh kw, c, k), or (kh kw, c) of a depthwise kernel."""
        if self.depthwise:
            return self.weights
        flat = self.weights.swapaxes(0, 1).reshape(self.weights.shape[1], -1)[:, : self.features]
        return flat.reshape(self.size[0] * self.size[1], -1, self.features)


def winograd_stride(
    kernel: Float[Array, "kh kw _ k"], stride: int, groups: int = 1, dilation: int = 1
) -> int:
    """What `pack_kernel` should get as `winograd` where the kernel is packed ahead of many calls.

    Its stride on CPUs with compiled handlers, where the transform was faster by 1.1 to 2 from 16 channels on
    (docs/performance.md); else 0.
    """
    kh, kw, channels, _ = kernel.shape
    fits = (kh, kw) == (3, 3) and groups == dilation == 1 and kernel.dtype == "float32"
    pays = fits and stride in STRIDES and channels >= 16
    compiled = jax.default_backend() == "cpu" and extension.resolve() == "ffi"
    return stride if pays and compiled else 0


@functools.partial(jax.jit, static_argnames=("groups", "winograd"))
def pack_kernel(
    kernel: Float[Array, "kh kw _ k"], groups: int = 1, *, winograd: int = 0
) -> PackedKernel:
    """Packs a kernel (HWIO) of one group, or of one group per channel.

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
        if winograd not in STRIDES or (kh, kw) != (3, 3) or kernel.dtype != "float32":
            raise ValueError(
                f"pack_kernel: winograd={winograd} and a {kernel.dtype} kernel of {kh} x {kw}; expected"
                f" one of {STRIDES} and float32 of 3 x 3, or winograd=0"
            )
        kernel = jnp.einsum(
            "tu,uck->tck",
            winograd_forward(winograd),
            kernel.reshape(9, channels, features),
            precision="highest",
        )
    rows = kernel.size // features
    padded = jnp.pad(kernel.reshape(rows, features), ((0, 0), (0, -features % PANEL)))
    panels = padded.reshape(rows, -1, PANEL).swapaxes(0, 1)
    return PackedKernel(panels, (kh, kw), features, depthwise=False, winograd=winograd)


def winograd_forward(stride: int) -> np.ndarray:
    """(taps, 9): what makes the transformed taps of a 3 x 3 kernel; those of a point lie together."""
    return np.kron(_TAPS[stride], _TAPS[stride])[_order(stride)].astype(np.float32)


def winograd_inverse(stride: int) -> np.ndarray:
    """(9, taps): what makes the kernel of its transformed taps."""
    return np.kron(_INVERSE[stride], _INVERSE[stride])[:, _order(stride)].astype(np.float32)


def _order(stride: int) -> list[int]:
    points, side = _POINTS[stride], len(_TAPS[stride])
    return [r * side + s for a in points for b in points for r in a for s in b]
