"""The layers of RANet: dense blocks, fused with the block of a lower resolution, and exits."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax import nn
from segblocks_jax.nn.initial import he_normal_out, small_uniform

MOMENTUM = 0.1
Image = Float[Array, "n _h _w _c"]
Kept = tuple[Image, ...]
"""What the next sub-network needs of a block: see `Block.__call__`."""

norm = functools.partial(nn.BatchNorm, momentum=MOMENTUM, semantics=nn.BlockOptions())


def relu(x: Image) -> Image:
    """Also known to `record_calls`, as all functions here are."""
    return nn.pointwise(jax.nn.relu, x)


def concatenate(*images: Image) -> Image:
    """Along the channels."""
    return nn.pointwise(lambda *pixels: jnp.concatenate(pixels, -1), *images)


def _size(x: Image) -> tuple[int, int]:
    return x.shape[1], x.shape[2]


def _first(x: Image, channels: int) -> Image:
    return x if x.shape[-1] == channels else nn.pointwise(lambda pixels: pixels[..., :channels], x)


class ConvNorm(nnx.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(
        self,
        before: int,
        after: int,
        size: int,
        *,
        stride: int = 1,
        use_bias: bool = False,
        kernel_init: nnx.Initializer = he_normal_out,
        rngs: nnx.Rngs,
    ) -> None:
        """A kernel of `size` from `before` to `after` channels."""
        self.conv = nn.Conv(
            before,
            after,
            size,
            stride=stride,
            use_bias=use_bias,
            kernel_init=kernel_init,
            rngs=rngs,
        )
        self.bn = norm(after)
        self.features = after

    def __call__(self, x: Image) -> Image:
        """(n, h, w, before) -> (n, ceil(h / stride), ceil(w / stride), after)."""
        return relu(self.bn(self.conv(x)))


class Unit(nnx.Module):
    """What a dense layer adds: a 1x1 convolution to a bottleneck, then 3x3; batch norm and ReLU behind both."""

    def __init__(
        self, before: int, after: int, bottleneck: int, stride: int = 1, *, rngs: nnx.Rngs
    ) -> None:
        """At most ``bottleneck * after`` channels inside."""
        inner = min(before, bottleneck * after)
        self.conv1 = nn.Conv(before, inner, 1, kernel_init=he_normal_out, rngs=rngs)
        self.bn1 = norm(inner)
        self.conv2 = nn.Conv(inner, after, 3, stride=stride, kernel_init=he_normal_out, rngs=rngs)
        self.bn2 = norm(after)

    def __call__(self, x: Image) -> Image:
        """(n, h, w, before) -> (n, ceil(h / stride), ceil(w / stride), after)."""
        return relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))))


class Layer(nnx.Module):
    """A dense layer: the input beside what it adds, some of that from the block below."""

    def __init__(self, own: Unit, lower: Unit | None) -> None:
        """`lower` runs on the input of the same layer of the block below."""
        self.own = own
        self.lower = lower

    def __call__(self, x: Image, below: Image | None) -> Image:
        """``concat[resize(x), resize(lower(below)), own(x)]``, at the size of `own`'s result."""
        own = self.own(x)
        parts = [x, own]
        if self.lower is not None:
            assert below is not None
            parts.insert(1, self.lower(below))
        return concatenate(*(nn.resize_aligned(part, _size(own)) for part in parts))


@dataclasses.dataclass(frozen=True)
class BlockSize:
    """The channels of a block.

    Attributes:
        before: of its input.
        growth: that each layer adds.
        layers: number of them.
        bottleneck: see `Unit`.
        compress: share of what a fusion block adds that comes from the block below.
        reduction: share that a transition leaves; None: there is no transition.
        down: whether it halves the size, in its last layer.
    """

    before: int
    growth: int
    layers: int
    bottleneck: int
    compress: float
    reduction: float | None
    down: bool

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each layer's input, and of the last one's output."""
        return tuple(self.before + self.growth * i for i in range(self.layers + 1))


class Block(nnx.Module):
    """Dense layers; in a fusion block, the last output of the block below beside theirs; perhaps a transition."""

    def __init__(self, size: BlockSize, below: BlockSize | None, *, rngs: nnx.Rngs) -> None:
        """`below` makes it a fusion block."""
        self.below = below
        self.layers: Any = nnx.List([])
        for i, width in enumerate(size.widths[:-1]):
            lower, added = None, size.growth
            if below is not None:
                given = int(size.growth * size.compress)
                lower = Unit(below.widths[i], given, below.bottleneck, rngs=rngs)
                added -= given
            stride = 2 if size.down and i == size.layers - 1 else 1
            own = Unit(width, added, size.bottleneck, stride, rngs=rngs)
            self.layers.append(Layer(own, lower))
        after, last, transition = size.widths[-1], None, None
        if below is not None:
            last = ConvNorm(below.widths[-1], int(after * size.compress), 1, rngs=rngs)
            after += last.features
        if size.reduction is not None:
            transition = ConvNorm(after, int(after * size.reduction), 1, rngs=rngs)
            after = transition.features
        self.last, self.transition, self.features = last, transition, after

    def __call__(self, x: Image, below: Kept = ()) -> tuple[Image, Kept]:
        """Runs the block.

        Args:
            x: its input.
            below: what was kept of the block below, for a fusion block.

        Returns:
            The features for the next block, and what is kept: the output of the last layer, before it that layer's
            input where it has another size. The inputs of the other layers are the first channels of either.
        """
        for i, layer in enumerate(self.layers):
            before = x
            given = None if self.below is None else _first(below[0], self.below.widths[i])
            x = layer(x, given)
        kept = (x,) if before.shape[1:3] == x.shape[1:3] else (before, x)
        if self.last is not None:
            given = nn.resize_aligned(self.last(below[-1]), _size(x))
            x = concatenate(x, given)
        return (x if self.transition is None else self.transition(x)), kept


class Exit(nnx.Module):
    """A classifier: two 3x3 convolutions of stride 2, 2x2 average pooling to one position, a linear layer."""

    def __init__(self, before: int, width: int, num_classes: int, *, rngs: nnx.Rngs) -> None:
        """`width` channels inside."""
        self.convs = nnx.List([ConvNorm(c, width, 3, stride=2, rngs=rngs) for c in (before, width)])
        self.linear = nn.Linear(width, num_classes, kernel_init=small_uniform, rngs=rngs)

    def __call__(self, x: Image) -> Float[Array, "n k"]:
        """(n, h, w, before) -> logits."""
        for conv in self.convs:
            x = conv(x)
        return self.linear(nn.average_pool(x, 2))
