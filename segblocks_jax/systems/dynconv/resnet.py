"""ResNets whose every residual block has a mask: CIFAR's of 6n + 2 layers, ImageNet's of 50 and 101."""

import dataclasses
import functools
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax import nn
from segblocks_jax.errors import InputError
from segblocks_jax.models import NetworkEntry, TorchNames
from segblocks_jax.systems.dynconv.blocks import BasicBlock, Bottleneck, Image, conv, norm
from segblocks_jax.systems.dynconv.execution import Pass, layer
from segblocks_jax.systems.dynconv.layers import Layer
from segblocks_jax.systems.dynconv.masks import MaskKind

NAMES = ((r"\bmasker\.", "masker.maskconv."),)
"""What mask units are called in checkpoints of the published code."""


@dataclasses.dataclass(frozen=True)
class ResNetOptions:
    """Options of a ResNet.

    Attributes:
        width: inner channels of the first stage; those of the others are twice as many each.
        masked: whether blocks have mask units; without, it is the plain network.
    """

    width: int
    masked: bool = True


@dataclasses.dataclass(frozen=True)
class CifarOptions(ResNetOptions):
    """`ResNetOptions` with the published width."""

    width: int = 16


@dataclasses.dataclass(frozen=True)
class ImageNetOptions(ResNetOptions):
    """`ResNetOptions` with the published width."""

    width: int = 64


class MaskedResNet(nnx.Module):
    """A classifier of residual blocks with masks.

    ``net(images)`` gives logits (n, classes) of normalized images (n, h, w, 3); `segblocks_jax.systems.dynconv.run`
    the masks, too.

    Attributes:
        features: channels before the classifier.
    """

    torch_names = TorchNames("net.", NAMES)
    output_stride = 0  # Logits are of the whole image.

    def __init__(
        self,
        num_classes: int,
        options: ResNetOptions,
        *,
        depths: tuple[int, ...],
        imagenet: bool,
        semantics: nn.BlockOptions,
        rngs: nnx.Rngs,
    ) -> None:
        """`depths`: blocks by stage. `imagenet`: bottlenecks behind a stem of stride 4, else basic blocks."""
        if options.width < 1:
            raise InputError(f"dynconv: width is {options.width}; expected at least 1")
        self.num_classes, self.semantics = num_classes, semantics
        block = Bottleneck if imagenet else BasicBlock
        self.conv1 = conv(3, options.width, 7 if imagenet else 3, stride=1 + imagenet, rngs=rngs)
        self.bn1 = norm(options.width)
        self.imagenet = imagenet
        features = options.width
        for i, depth in enumerate(depths):
            width = options.width * 2**i
            stage: nnx.List = nnx.List()
            for j in range(depth):
                stride = 2 if i and not j else 1
                kind: MaskKind | None = "squeeze" if options.masked else None
                stage.append(block(features, width, stride, mask=kind, rngs=rngs))
                stage[-1].activated = True
                features = width * block.expansion
            setattr(self, f"layer{i + 1}", stage)
        self.stages = len(depths)
        self.features = features
        self.fc = nn.Linear(features, num_classes, rngs=rngs)

    def __call__(self, x: Image, run: Pass | None = None) -> Float[Array, "n k"]:
        """Normalized images -> logits."""
        run = run or Pass()
        with nn.scope("stem"):
            x = layer(Layer(self.conv1, self.bn1, "relu"), x, run)
            if self.imagenet:
                x = nn.max_pool(x, 3, 2, 1, self.semantics)
        for i in range(1, self.stages + 1):
            with nn.scope(f"layer{i}"):
                for block in getattr(self, f"layer{i}"):
                    x = block(x, run)
        with nn.scope("fc"):
            return self.fc(x.mean((1, 2)))


def _entry(options: type[ResNetOptions], depths: tuple[int, ...], imagenet: bool) -> NetworkEntry:
    create: Any = functools.partial(MaskedResNet, depths=depths, imagenet=imagenet)
    return NetworkEntry(options, create, 1000 if imagenet else 10)


RESNET8, RESNET14, RESNET20, RESNET26, RESNET32 = (
    _entry(CifarOptions, (n, n, n), False) for n in range(1, 6)
)
RESNET50 = _entry(ImageNetOptions, (3, 4, 6, 3), True)
RESNET101 = _entry(ImageNetOptions, (3, 4, 23, 3), True)
