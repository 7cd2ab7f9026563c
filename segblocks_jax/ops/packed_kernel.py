"""PackedKernel: a kernel in the order in which `indexed_conv` reads it, transformed where that pays."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from segblocks_jax.ops import extension, no_type_check

# Winograd's minimal filtering of 3 x 3 kernels: the kernel's part. Of stride 1, F(4 x 4, 3 x 3) of Lavin and Gray,
# "Fast algorithms for convolutional neural networks" (2016), at the points 0, 1, -1, infinity, 2 and -2: 36 products
# for squares of 4 x 4 outputs instead of 144. At the first four, it is F(2 x 2, 3 x 3): 16 products for squares of
# 2 x 2 instead of 36. Of stride 2, squares are 2 x 2, along each axis the even taps are F(2, 2) and the odd one is
# plain: 25 products. Along one axis: the transformed taps, and those that each point sums up.
_TAPS = {
    1: np.array(
        [
            [1, 0, 0],
            [1 / 2, 1 / 2, 1 / 2],
            [1 / 2, -1 / 2, 1 / 2],
            [0, 0, 1],
            [1 / 8, 1 / 4, 1 / 2],
            [1 / 8, -1 / 4, 1 / 2],
        ]
    ),
    2: np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 1, 0], [0, 0, 1]]),
}
_POINTS = {1: ([0], [1], [2], [3], [4], [5]), 2: ([0, 1], [2], [3, 4])}
# The kernel from its transformed taps.
_INVERSE = {
    1: np.array([[1, 0, 0, 0, 0, 0], [0, 1, -1, 0, 0, 0], [0, 0, 0, 1, 0, 0]]),
    2: np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1]]),
}
STRIDES = tuple(_TAPS)
_TRANSFORMED = ("float32", "bfloat16")  # Kernels; what they become is float32.
PANEL = 16
"""Output channels that lie together in packed weights."""
_STEP = 32  # Inputs that tile units take at a time, in pairs.


@jax.tree_util.register_dataclass
@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class PackedKernel:
    """A convolution kernel in the order in which the handlers read it; pack it once, not in every call.

    Attributes:
        weights: one group: (ceil(k / 16), kh kw c, 16), panels of 16 output channels, zeros beyond k.
            Depthwise: (kh kw, c). Transformed: float32, taps of the transform instead of kh kw. In pairs:
            (ceil(k / 16), taps * steps * 16, 16, 2), two neighboring inputs last, those of a tap filled up with
            zeros to whole steps of 32; the taps of a kernel row are one where that takes fewer steps.
        size: (kh, kw).
        features: output channels k.
        depthwise: whether every channel is convolved alone.
        winograd: the stride for which the weights are transformed (see
            `segblocks_jax.ops.packed_kernel`); 0: they aren't, and fit any stride.
        pairs: input channels c, where the weights are in pairs; else 0.
    """

    weights: Float[Array, "..."]
    size: tuple[int, int] = dataclasses.field(metadata={"static": True})
    features: int = dataclasses.field(metadata={"static": True})
    depthwise: bool = dataclasses.field(metadata={"static": True})
    winograd: int = dataclasses.field(default=0, metadata={"static": True})
    pairs: int = dataclasses.field(default=0, metadata={"static": True})

    @property
    def channels(self) -> int:
        """Input channels c."""
        if self.depthwise or self.pairs:
            return self.pairs or self.features
        taps = len(_order(self.winograd)) if self.winograd else self.size[0] * self.size[1]
        return self.weights.shape[1] // taps

    def plain(self) -> "PackedKernel":
        """The kernel without the Winograd transform, up to rounding, and without pairs."""
        if not (self.winograd or self.pairs):
            return self
        panels = self.weights.shape[0]
        if self.pairs:
            taps, depth, full = _pair_layout(self.size, self.pairs)
            pairs = self.weights.reshape(panels, taps, full // 2, PANEL, 2).swapaxes(3, 4)
            weights = pairs.reshape(panels, taps, full, PANEL)[:, :, :depth]
        else:
            weights = jnp.einsum(
                "ut,ptcl->pucl",
                winograd_inverse(self.winograd),
                self.weights.reshape(panels, -1, self.channels, PANEL),
                precision="highest",
            )
        weights = weights.reshape(panels, math.prod(self.size) * self.channels, PANEL)
        return dataclasses.replace(self, weights=weights, winograd=0, pairs=0)

    def taps(self) -> Float[Array, "t ..."]:
        """The weights of each tap, row by row: (kh kw, c, k), or (kh kw, c) of a depthwise kernel."""
        if self.depthwise:
            return self.weights
        weights = self.plain().weights
        flat = weights.swapaxes(0, 1).reshape(weights.shape[1], -1)[:, : self.features]
        return flat.reshape(self.size[0] * self.size[1], -1, self.features)


def winograd_stride(
    kernel: Float[Array, "kh kw _ k"], stride: int, groups: int = 1, dilation: int = 1
) -> int:
    """What `pack_kernel` should get as `winograd` where the kernel is packed ahead of many calls.

    Its stride on CPUs with compiled handlers, where the transform was faster by 1.1 to 2 from 16 channels on
    (docs/performance.md), if products are formed in float32; else 0.
    """
    kh, kw, channels, _ = kernel.shape
    fits = (kh, kw) == (3, 3) and groups == dilation == 1 and kernel.dtype in _TRANSFORMED
    pays = fits and stride in STRIDES and channels >= 16 and not pairs_pay(kernel, groups)
    return stride if pays and _for_handlers() else 0


def pairs_pay(kernel: Float[Array, "kh kw _ k"], groups: int = 1) -> bool:
    """Whether `pack_kernel` should make pairs where the kernel is packed ahead of many calls.

    So it is on CPUs whose handlers multiply bfloat16 as it is; see `extension.cpu_loops`.
    """
    fits = kernel.dtype == "bfloat16" and groups == 1 and _for_handlers()
    return fits and extension.cpu_loops()[1] != "float32"


def channels_pay(kernel: Float[Array, "kh kw _ k"], groups: int = 1) -> int:
    """How many input channels a kernel should be packed with ahead of many calls, those beyond its own being zeros.

    4 or 8 on GPUs, where a kernel of one group in bfloat16 has fewer: 8 or 16 bytes of a row are then copied at once,
    not 2. Else its own.
    """
    channels = kernel.shape[2]
    fits = kernel.dtype == "bfloat16" and groups == 1 and _for_handlers("gpu")
    return -(-channels // 4) * 4 if fits and channels < 8 else channels


def _for_handlers(platform: str = "cpu") -> bool:
    return jax.default_backend() == platform and extension.resolve() == "ffi"


@functools.partial(jax.jit, static_argnames=("groups", "winograd", "pairs"))
def pack_kernel(
    kernel: Float[Array, "kh kw _ k"], groups: int = 1, *, winograd: int = 0, pairs: bool = False
) -> PackedKernel:
    """Packs a kernel (HWIO) of one group, or of one group per channel.

    Args:
        kernel: of the dtype of the rows that it will meet.
        groups: 1, or the number of channels.
        winograd: 0, or the stride, 1 or 2, for which to transform a kernel of 3 x 3 and one group, float32 or
            bfloat16: fewer products, larger weights, in float32; see `winograd_stride`.
        pairs: whether to pack a bfloat16 kernel of one group in pairs; see `pairs_pay`.

    Raises:
        ValueError: any other number of groups, or a kernel that can't be transformed or paired.
    """
    kh, kw, channels, features = kernel.shape
    if groups == features and channels == 1 and groups > 1:
        return PackedKernel(kernel.reshape(kh * kw, features), (kh, kw), features, depthwise=True)
    if groups != 1:
        raise ValueError(
            f"pack_kernel: {groups} groups of {channels} channels; expected 1 group, or as many groups as"
            " output channels with 1 channel each"
        )
    if pairs and (winograd or kernel.dtype != "bfloat16"):
        raise ValueError(
            f"pack_kernel: pairs of a {kernel.dtype} kernel, winograd={winograd}; expected bfloat16 and 0"
        )
    if winograd:
        if winograd not in STRIDES or (kh, kw) != (3, 3) or kernel.dtype not in _TRANSFORMED:
            raise ValueError(
                f"pack_kernel: winograd={winograd} and a {kernel.dtype} kernel of {kh} x {kw}; expected"
                f" one of {STRIDES} and float32 or bfloat16 of 3 x 3, or winograd=0"
            )
        kernel = jnp.einsum(
            "tu,uck->tck",
            winograd_forward(winograd),
            kernel.reshape(9, channels, features).astype(jnp.float32),
            precision="highest",
        )
    rows = kernel.size // features
    padded = jnp.pad(kernel.reshape(rows, features), ((0, 0), (0, -features % PANEL)))
    panels = padded.reshape(rows, padded.shape[1] // PANEL, PANEL).swapaxes(0, 1)
    if not pairs:
        return PackedKernel(panels, (kh, kw), features, depthwise=False, winograd=winograd)
    return PackedKernel(_paired(panels, (kh, kw), channels), (kh, kw), features, False, 0, channels)


def _pair_layout(size: tuple[int, int], channels: int) -> tuple[int, int, int]:
    """Of weights in pairs: taps, merged ones if those take fewer steps; inputs of each, and with their zeros."""
    kh, kw = size
    taps = ((kh * kw, channels), (kh, kw * channels))
    layouts = [(number, depth, -(-depth // _STEP) * _STEP) for number, depth in taps]
    return min(layouts, key=lambda layout: layout[0] * layout[2])


def _paired(
    panels: Float[Array, "p d 16"], size: tuple[int, int], channels: int
) -> Float[Array, "p r 16 2"]:
    """Panels in pairs of inputs."""
    taps, depth, full = _pair_layout(size, channels)
    split = panels.reshape(panels.shape[0], taps, depth, PANEL)
    padded = jnp.pad(split, ((0, 0), (0, 0), (0, full - depth), (0, 0)))
    return padded.reshape(panels.shape[0], taps * full // 2, 2, PANEL).swapaxes(2, 3)


def winograd_forward(stride: int) -> np.ndarray:
    """(taps, 9): what makes the transformed taps of a 3 x 3 kernel; those of a point lie together."""
    return np.kron(_TAPS[stride], _TAPS[stride])[_order(stride)].astype(np.float32)


def winograd_inverse(stride: int) -> np.ndarray:
    """(9, taps): what makes the kernel of its transformed taps."""
    return np.kron(_INVERSE[stride], _INVERSE[stride])[:, _order(stride)].astype(np.float32)


def _order(stride: int) -> list[int]:
    points, side = _POINTS[stride], len(_TAPS[stride])
    return [r * side + s for a in points for b in points for r in a for s in b]
