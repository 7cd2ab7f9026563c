"""QuantizedKernel: a kernel of whole numbers in the order in which `quantized_conv` reads it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

from segblocks_jax.ops import no_type_check
from segblocks_jax.ops.packed_kernel import PANEL

GROUP = 4
"""Input channels whose products one instruction sums up; they lie together in the weights."""
_LARGEST = 127
_MOST_PRODUCTS = (2**31 - 1) // (255 * 128)


@jax.tree_util.register_dataclass
@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class QuantizedKernel:
    """A convolution kernel of whole numbers -127 .. 127 in the order in which the handler reads it.

    Attributes:
        weights: one group: (ceil(k / 16), kh kw ceil(c / 4), 64), panels of 16 output channels by 4 input
            channels, zeros beyond k and c. Depthwise: (kh kw, c).
        size: (kh, kw).
        channels, features: input and output channels c and k.
        depthwise: whether every channel is convolved alone.
    """

    weights: Int8[Array, "..."]
    size: tuple[int, int] = dataclasses.field(metadata={"static": True})
    channels: int = dataclasses.field(metadata={"static": True})
    features: int = dataclasses.field(metadata={"static": True})
    depthwise: bool = dataclasses.field(metadata={"static": True})

    def taps(self) -> Int8[Array, "t ..."]:
        """The weights of each tap, as `PackedKernel.taps` has them."""
        if self.depthwise:
            return self.weights
        panels, count = self.weights.shape[0], self.size[0] * self.size[1]
        split = self.weights.reshape(panels, count, -1, PANEL, GROUP).transpose(1, 2, 4, 0, 3)
        return split.reshape(count, -1, panels * PANEL)[:, : self.channels, : self.features]


@functools.partial(jax.jit, static_argnames=("depthwise", "size"))
def quantize_kernel(
    taps: Float[Array, "t ..."], size: tuple[int, int], depthwise: bool
) -> tuple[QuantizedKernel, Float[Array, "k"], Float[Array, "k"]]:
    """Rounds a kernel to whole numbers, symmetrically and for each output channel by its own scale.

    Args:
        taps: as `PackedKernel.taps` has them.
        size: (kh, kw).
        depthwise: whether the kernel is.

    Returns:
        The kernel; what a unit of each output channel is worth, (k,); and the sum of its weights, (k,).

    Raises:
        ValueError: so many products that their sum could pass 2^31.
    """
    products = taps.size // taps.shape[-1]
    if products > _MOST_PRODUCTS:
        raise ValueError(
            f"quantize_kernel: an output sums up {products} products; expected at most {_MOST_PRODUCTS}, so that"
            " the sum fits 32 bits"
        )
    axes = tuple(range(taps.ndim - 1))
    largest = jnp.abs(taps).max(axes, keepdims=True)
    scale = jnp.where(largest > 0, largest / _LARGEST, 1)
    whole = jnp.clip(jnp.rint(taps / scale), -_LARGEST, _LARGEST)
    scale, totals, features = scale.reshape(-1), whole.sum(axes), taps.shape[-1]
    whole = whole.astype(jnp.int8)
    if depthwise:
        return QuantizedKernel(whole, size, features, features, True), scale, totals
    count, channels, _ = taps.shape
    padded = jnp.pad(whole, ((0, 0), (0, -channels % GROUP), (0, -features % PANEL)))
    split = padded.reshape(count, -1, GROUP, padded.shape[2] // PANEL, PANEL)
    weights = split.transpose(3, 0, 1, 4, 2).reshape(split.shape[3], -1, PANEL * GROUP)
    return QuantizedKernel(weights, size, channels, features, False), scale, totals
