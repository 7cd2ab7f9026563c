"""MobileNetV2 (Sandler et al., arXiv 1801.04381) whose inverted residuals with a shortcut have masks."""

import dataclasses
import re

from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax import nn
from segblocks_jax.errors import InputError
from segblocks_jax.models import NetworkEntry, TorchNames
from segblocks_jax.systems.dynconv.blocks import Image, InvertedResidual, conv, norm
from segblocks_jax.systems.dynconv.execution import Pass, layer
from segblocks_jax.systems.dynconv.layers import Layer
from segblocks_jax.systems.dynconv.masks import MaskKind
from segblocks_jax.systems.dynconv.resnet import NAMES

# Blocks, stride, expansion and channels by stage: table 2 of the paper.
_STAGES = (
    (1, 1, 1, 16),
    (2, 2, 6, 24),
    (3, 2, 6, 32),
    (4, 2, 6, 64),
    (3, 1, 6, 96),
    (3, 2, 6, 160),
    (1, 1, 6, 320),
)
_STEM, _HEAD = 32, 1280
_OUTPUTS = (1, 2, 4, 6)  # Stages at strides 4, 8, 16 and 32.
_PLACES = [f"{i}.{j}" for i, (blocks, *_) in enumerate(_STAGES) for j in range(blocks)]
_LAYERS = ("expand_conv", "bn0", "depthwise_conv", "bn1", "project_conv", "bn2")
_EXPANDING = ("0.0", "0.1", "1.0", "1.1", "2", "3")
_PLAIN = ("", "", "0.0", "0.1", "1", "2")


def _torchvision(match: re.Match[str]) -> str:
    number = _PLACES.index(match[1])
    if match[2] not in _LAYERS:
        return f"features.{number + 1}.{match[2]}"
    layers = _EXPANDING if number else _PLAIN
    return f"features.{number + 1}.conv.{layers[_LAYERS.index(match[2])]}"


@dataclasses.dataclass(frozen=True)
class MobileNetV2Options:
    """Options of MobileNetV2.

    Attributes:
        width: factor on the channels of all stages but the last layer; rounded to multiples of 8.
        masked: whether blocks have mask units; without, it is the plain network.
    """

    width: float = 1.0
    masked: bool = True


class MaskedMobileNetV2(nnx.Module):
    """A classifier, and by `stages` a backbone, of inverted residuals with masks; names of weights as in torchvision.

    Attributes:
        features: channels of the backbone's four outputs.
    """

    torch_names = TorchNames(
        "net.",
        (
            *NAMES,
            (r"^stem\.", "features.0."),
            (r"^blocks\.(\d+\.\d+)\.(\w+)", _torchvision),
            (r"^head\.", "features.18."),
            (r"^classifier\.", "classifier.1."),
        ),
    )
    output_stride = 0  # Logits are of the whole image.

    def __init__(
        self,
        num_classes: int,
        options: MobileNetV2Options,
        *,
        semantics: nn.BlockOptions,
        rngs: nnx.Rngs,
    ) -> None:
        """With random weights."""
        if options.width <= 0:
            raise InputError(f"dynconv_mobilenetv2: width is {options.width}; expected above 0")
        self.num_classes, self.semantics = num_classes, semantics
        kind: MaskKind | None = "squeeze" if options.masked else None
        before = stem = _scaled(_STEM, options.width)
        self.stem = nnx.List([conv(3, stem, 3, stride=2, rngs=rngs), norm(stem)])
        self.blocks: nnx.List = nnx.List()
        outputs = []
        for count, stride, expansion, channels in _STAGES:
            after = _scaled(channels, options.width)
            stage: nnx.List = nnx.List()
            for j in range(count):
                sizes = before, after, 1 if j else stride, expansion
                stage.append(InvertedResidual(*sizes, mask=kind, rngs=rngs))
                before = after
            self.blocks.append(stage)
            outputs.append(after)
        self.features = tuple(outputs[i] for i in _OUTPUTS)
        last = _scaled(_HEAD, max(options.width, 1.0))
        self.head = nnx.List([conv(before, last, 1, rngs=rngs), norm(last)])
        self.classifier = nn.Linear(last, num_classes, rngs=rngs)

    def stages(self, x: Image, run: Pass | None = None) -> list[Image]:
        """Normalized images -> features at strides 4, 8, 16 and 32."""
        run = run or Pass()
        with nn.scope("stem"):
            x = layer(Layer.of(self.stem, "relu6"), x, run)
        outputs = []
        for i, stage in enumerate(self.blocks):
            with nn.scope(f"stage{i + 1}"):
                for block in stage:
                    x = block(x, run)
            if i in _OUTPUTS:
                outputs.append(x)
        return outputs

    def __call__(self, x: Image, run: Pass | None = None) -> Float[Array, "n k"]:
        """Normalized images -> logits."""
        run = run or Pass()
        x = self.stages(x, run)[-1]
        with nn.scope("head"):
            x = layer(Layer.of(self.head, "relu6"), x, run)
        with nn.scope("fc"):
            return self.classifier(x.mean((1, 2)))


def _scaled(channels: int, width: float) -> int:
    """Times `width`, rounded to a multiple of 8, but by no more than a tenth down."""
    rounded = max(8, int(channels * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels * width else rounded


NETWORK = NetworkEntry(MobileNetV2Options, MaskedMobileNetV2, 1000)
