"""LRNNet (arXiv 2006.02706): factorized convolutions, dilated depthwise ones, reduced non-local attention.

No code of the authors is public; docs/lrnnet.md says what is theirs and what is our reading.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from segblocks_jax import nn
from segblocks_jax.blocks import DualRes
from segblocks_jax.errors import InputError
from segblocks_jax.models import NetworkEntry, TorchNames
from segblocks_jax.nn.regions import Features
from segblocks_jax.systems.lrnnet.reduced_non_local import ReducedNonLocal

DILATIONS = (1, 2, 5, 9, 2, 5, 9, 17)
"""Of the third stage's blocks, one each."""
_DEPTHS = (3, 2)  # Blocks of the first two stages, without dilation.
_DROPOUT = (0.03, 0.03, 0.3)  # Rates by stage.
_MOMENTUM = 0.1


class Down(nnx.Module):
    """Halves the size: a 3x3 convolution of stride 2 beside the maxima over 2x2; batch norm, ReLU."""

    def __init__(
        self, in_features: int, features: int, *, semantics: nn.BlockOptions, rngs: nnx.Rngs
    ) -> None:
        """The convolution makes the channels that pooling does not."""
        conv = functools.partial(nn.Conv, stride=2, use_bias=True, semantics=semantics, rngs=rngs)
        self.conv = conv(in_features, features - in_features, 3)
        self.bn = nn.BatchNorm(features, momentum=_MOMENTUM, semantics=semantics)

    def __call__(self, x: Features) -> Features:
        """(n, h, w, in_features) -> (n, h / 2, w / 2, features)."""
        pooled = nn.max_pool(x, window=2, stride=2, padding=0)
        x = nn.pointwise(lambda a, b: jnp.concatenate([a, b], -1), self.conv(x), pooled)
        return nn.pointwise(jax.nn.relu, self.bn(x))


class Factorized(nnx.Module):
    """Two 1-D convolutions in a row, each followed by batch norm and ReLU."""

    def __init__(
        self, features: int, vertical_first: bool, *, semantics: nn.BlockOptions, rngs: nnx.Rngs
    ) -> None:
        """3x1 then 1x3, or the other way round."""
        first, second = ((3, 1), (1, 3)) if vertical_first else ((1, 3), (3, 1))
        norm = functools.partial(nn.BatchNorm, features, momentum=_MOMENTUM, semantics=semantics)
        conv = functools.partial(nn.Conv, features, features, semantics=semantics, rngs=rngs)
        self.conv1 = conv(first)
        self.bn1 = norm()
        self.conv2 = conv(second)
        self.bn2 = norm()

    def __call__(self, x: Features) -> Features:
        """(n, h, w, features) -> the same shape."""
        x = nn.pointwise(jax.nn.relu, self.bn1(self.conv1(x)))
        return nn.pointwise(jax.nn.relu, self.bn2(self.conv2(x)))


class FactorizedBlock(nnx.Module):
    """The factorized convolution block (FCB), a residual block.

    Short range: each half of the channels through a pair of 1-D convolutions. Long range: a dilated
    depthwise 3x3 convolution. Then 1x1, the sum with the input, ReLU and a shuffle of the channels in
    two groups, so that the next block's halves hold channels of both.
    """

    def __init__(
        self,
        features: int,
        dilation: int,
        dropout: float,
        *,
        semantics: nn.BlockOptions,
        rngs: nnx.Rngs,
    ) -> None:
        """`dilation` of the depthwise convolution; `dropout` before the sum."""
        norm = functools.partial(nn.BatchNorm, features, momentum=_MOMENTUM, semantics=semantics)
        pair = functools.partial(Factorized, features // 2, semantics=semantics, rngs=rngs)
        self.left = pair(vertical_first=True)
        self.right = pair(vertical_first=False)
        conv = functools.partial(nn.Conv, features, features, semantics=semantics, rngs=rngs)
        self.depthwise = conv(3, groups=features, dilation=dilation)
        self.bn1 = norm()
        self.pointwise = conv(1)
        self.bn2 = norm()
        self.dropout = nn.Dropout(dropout)
        self.half = features // 2

    def __call__(self, x: Features) -> Features:
        """(n, h, w, features) -> the same shape."""
        shortcut = x
        left = self.left(nn.pointwise(lambda a: a[..., : self.half], x))
        right = self.right(nn.pointwise(lambda a: a[..., self.half :], x))
        x = nn.pointwise(lambda a, b: jnp.concatenate([a, b], -1), left, right)
        x = nn.pointwise(jax.nn.relu, self.bn1(self.depthwise(x)))
        x = self.dropout(self.bn2(self.pointwise(x)))
        return nn.pointwise(_shuffle, nn.pointwise(jax.nn.relu, nn.pointwise(jnp.add, x, shortcut)))


def _shuffle(pixels: jax.Array) -> jax.Array:
    """Channels of the two halves in turn."""
    *around, channels = pixels.shape
    return pixels.reshape(*around, 2, channels // 2).swapaxes(-1, -2).reshape(pixels.shape)


@dataclasses.dataclass(frozen=True)
class LRNNetOptions:
    """Options of LRNNet.

    Attributes:
        width: channels of the encoder's second stage.
        features: channels of the attention.
        dilations: of the third stage, one per block.
        dropout: factor on the rates of dropout.
    """

    width: int = 64
    features: int = 64
    dilations: tuple[int, ...] = DILATIONS
    dropout: float = 1.0


class LRNEncoder(nnx.Module):
    """Three stages, each a `Down` and blocks, the last with `dilations`; gives `features` channels at stride 8."""

    torch_names = TorchNames("net.backbone.")

    def __init__(
        self, options: LRNNetOptions, *, semantics: nn.BlockOptions, rngs: nnx.Rngs
    ) -> None:
        """Stages of half, once and twice `options.width` channels."""
        width, dilations = options.width, options.dilations
        if width % 4 or width < 8:
            raise InputError(f"LRNNet: width is {width}; expected a multiple of 4, at least 8")
        if not dilations or min(dilations) < 1:
            raise InputError(
                f"LRNNet: dilations are {dilations}; expected a number above 0 for every block of the"
                " third stage"
            )
        self.dilations = tuple(dilations)
        plans = (*((1,) * depth for depth in _DEPTHS), self.dilations)
        channels = (3, width // 2, width, 2 * width)
        for i, plan in enumerate(plans):
            before, after = channels[i : i + 2]
            down = Down(before, after, semantics=semantics, rngs=rngs)
            block = functools.partial(FactorizedBlock, after, semantics=semantics, rngs=rngs)
            blocks = [block(dilation, options.dropout * _DROPOUT[i]) for dilation in plan]
            setattr(self, f"stage{i + 1}", nnx.List([down, *blocks]))
        self.features = channels[-1]

    def __call__(self, x: Features) -> Features:
        """(n, h, w, 3), normalized -> (n, h / 8, w / 8, features)."""
        for i in (1, 2, 3):
            with nn.scope(f"stage{i}"):
                for block in getattr(self, f"stage{i}"):
                    x = nn.rematerialized(block, x)
        return x


class LRNNet(nnx.Module):
    """A light segmentation network that runs on images and on blocks.

    ``net(image)`` gives logits (n, h / 8, w / 8, classes), ``net(split(image, mask))`` a `DualRes` of
    them. With the default semantics, in evaluation mode, an all-high grid gives the image's logits.
    The encoder and the logits run in blocks, the attention on the whole image.
    """

    output_stride = 8
    torch_names = TorchNames("net.")

    def __init__(
        self,
        num_classes: int,
        options: LRNNetOptions,
        *,
        semantics: nn.BlockOptions,
        rngs: nnx.Rngs,
    ) -> None:
        """With random weights."""
        self.semantics, self.num_classes = semantics, num_classes
        given: dict[str, Any] = {"semantics": semantics, "rngs": rngs}
        self.backbone = LRNEncoder(options, **given)
        deepest = self.backbone.features
        self.attention = ReducedNonLocal(deepest, channels=options.features, **given)
        self.logits = nn.Conv(deepest, num_classes, 1, use_bias=True, **given)

    def __call__(self, x: Features) -> Features:
        """Normalized image (n, h, w, 3), h and w multiples of 8, or blocks of it -> logits at 1/8.

        Raises:
            ValueError: blocks of a size that it can't have, see `segblocks_jax.nn.block_multiple`.
        """
        if isinstance(x, DualRes):
            nn.check_blocks(self, x)
        with nn.scope("backbone"):
            x = self.backbone(x)
        with nn.scope("attention"):
            attended = nn.on_full_image(self.attention, x, self.semantics)
        with nn.scope("logits"):
            return self.logits(nn.pointwise(jnp.add, x, attended))


NETWORK = NetworkEntry(LRNNetOptions, LRNNet)
