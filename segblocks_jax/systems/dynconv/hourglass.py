"""The stacked hourglass that finds joints (Newell et al., arXiv 1603.06937), of MobileNetV2's blocks."""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax import nn
from segblocks_jax.errors import InputError
from segblocks_jax.models import NetworkEntry, TorchNames
from segblocks_jax.systems.dynconv.blocks import Image, InvertedResidual, conv, norm
from segblocks_jax.systems.dynconv.execution import Pass, layer
from segblocks_jax.systems.dynconv.layers import Layer
from segblocks_jax.systems.dynconv.masks import MaskKind

STACKS = 4
LEVELS = 4
FEATURES = 96
MULTIPLE = 64
"""Sides of images are multiples of so many pixels."""
JOINTS = 16

_NAMES = (
    (r"\bmasker\.conv\.", "masker.maskconv."),
    (r"\bexpand_conv\.", "conv.0."),
    (r"\bbn0\.", "conv.1."),
    (r"\bdepthwise_conv\.", "conv.3."),
    (r"(?<=\.)bn1\.", "conv.4."),  # The stem's norm is called bn1 there as well.
    (r"\bproject_conv\.", "conv.6."),
    (r"\bbn2\.", "conv.7."),
)


@dataclasses.dataclass(frozen=True)
class HourglassOptions:
    """Options of the hourglass.

    Attributes:
        width: factor on its 96 channels, such as 0.5.
        stacks: hourglasses in a row.
        masked: whether blocks have mask units; without, it is the plain network.
    """

    width: float = 1.0
    stacks: int = STACKS
    masked: bool = True


class Hourglass(nnx.Module):
    """Four levels of halved resolution and back: at each, blocks aside, on the way down and on the way up.

    Attributes:
        hg: by level, the smallest first, lists of a block: aside, down, up and, at the smallest, innermost.
    """

    def __init__(self, features: int, mask: bool, *, rngs: nnx.Rngs) -> None:
        """Of `features` channels at all levels."""
        self.hg = nnx.List(
            nnx.List(_one(features, features, mask, rngs) for _ in range(3 if level else 4))
            for level in range(LEVELS)
        )

    def __call__(self, x: Image, run: Pass) -> Image:
        """(n, h, w, features) -> the same shape."""
        return self._level(LEVELS - 1, x, run)

    def _level(self, level: int, x: Image, run: Pass) -> Image:
        (aside,), (down,), (up,), *innermost = self.hg[level]
        beside = aside(x, run)
        low = down(nn.max_pool(x, 2, 2, 0), run)
        low = innermost[0][0](low, run) if innermost else self._level(level - 1, low, run)
        return beside + _twice(up(low, run))


def _twice(x: Image) -> Image:
    """Each pixel as 2 x 2."""
    n, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, c)).reshape(n, 2 * h, 2 * w, c)


def _one(in_features: int, features: int, mask: bool, rngs: nnx.Rngs) -> nnx.List:
    kind: MaskKind | None = "pointwise" if mask else None
    return nnx.List([InvertedResidual(in_features, features, mask=kind, rngs=rngs)])


class StackedHourglass(nnx.Module):
    """Hourglasses in a row, each of which gives heat maps.

    ``net(images)`` gives a list of heat maps (n, h / 4, w / 4, joints) of normalized images (n, h, w, 3), one for
    each stack. Only blocks with a shortcut have masks: one before the stacks, 14 in each.
    """

    torch_names = TorchNames("net.", _NAMES)
    output_stride = 4

    def __init__(
        self,
        num_classes: int,
        options: HourglassOptions,
        *,
        semantics: nn.BlockOptions,
        rngs: nnx.Rngs,
    ) -> None:
        """`num_classes` joints."""
        features = round(FEATURES * options.width)
        if options.width <= 0 or features % 4 or not features:
            raise InputError(
                f"dynconv_hourglass: width is {options.width}; expected a multiple of 1/24, such as 1.0 or 0.5"
            )
        if options.stacks < 1:
            raise InputError(f"dynconv_hourglass: stacks is {options.stacks}; expected at least 1")
        self.num_classes, self.semantics = num_classes, semantics
        masked, stacks = options.masked, range(options.stacks)
        self.conv1 = conv(3, features // 4, 7, stride=2, use_bias=True, rngs=rngs)
        self.bn1 = norm(features // 4)
        self.layer1 = _one(features // 4, features // 2, masked, rngs)
        self.layer2 = _one(features // 2, features, masked, rngs)
        self.layer3 = _one(features, features, masked, rngs)
        self.hg = nnx.List(Hourglass(features, masked, rngs=rngs) for _ in stacks)
        self.res = nnx.List(_one(features, features, masked, rngs) for _ in stacks)

        def pointwise(before: int, after: int) -> nn.Conv:
            return conv(before, after, 1, use_bias=True, rngs=rngs)

        self.fc = nnx.List(
            nnx.List([pointwise(features, features), norm(features)]) for _ in stacks
        )
        self.score = nnx.List(pointwise(features, num_classes) for _ in stacks)
        self.fc_ = nnx.List(pointwise(features, features) for _ in stacks[1:])
        self.score_ = nnx.List(pointwise(num_classes, features) for _ in stacks[1:])

    def __call__(self, x: Image, run: Pass | None = None) -> list[Float[Array, "n oh ow joints"]]:
        """Normalized images, sides multiples of 64 -> the stacks' heat maps.

        Raises:
            InputError: sides of images that aren't such multiples.
        """
        height, width = x.shape[1:3]
        if height % MULTIPLE or width % MULTIPLE or not height * width:
            raise InputError(
                f"dynconv_hourglass: images of {height} x {width} pixels; expected multiples of {MULTIPLE}"
            )
        run = run or Pass()
        with nn.scope("stem"):
            x = layer(Layer(self.conv1, self.bn1, "relu"), x, run)
            x = nn.max_pool(self.layer1[0](x, run), 2, 2, 0)
            x = self.layer3[0](self.layer2[0](x, run), run)
        heatmaps = []
        for i, hourglass in enumerate(self.hg):
            with nn.scope(f"stack{i}"):
                y = self.res[i][0](hourglass(x, run), run)
                y = layer(Layer.of(self.fc[i], "relu"), y, run)
                heatmap = layer(Layer(self.score[i]), y, run)
                heatmaps.append(heatmap)
                if i < len(self.fc_):
                    back = layer(Layer(self.score_[i]), heatmap, run)
                    x = x + layer(Layer(self.fc_[i]), y, run) + back
        return heatmaps


NETWORK = NetworkEntry(HourglassOptions, StackedHourglass, JOINTS)
