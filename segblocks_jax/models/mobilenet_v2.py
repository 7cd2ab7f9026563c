"""The MobileNetV2 backbone (Sandler et al., arXiv 1801.04381; torchvision's variant)."""

import dataclasses
import re

from flax import nnx

from segblocks_jax.models.inverted_residual import LAYERS, TIMM, InvertedResiduals, Names, Stage
from segblocks_jax.models.network import IMAGENET, Naming, TorchNames
from segblocks_jax.nn import BlockOptions
from segblocks_jax.nn.layers import Padding

_STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(3, 3, 2, 6, 32),
    Stage(4, 3, 2, 6, 64),
    Stage(3, 3, 1, 6, 96),
    Stage(3, 3, 2, 6, 160),
    Stage(1, 3, 1, 6, 320),
)
# torchvision's list of blocks begins with the stem.
_PLACES = [f"{i}.{j}" for i, stage in enumerate(_STAGES) for j in range(stage.repeat)]
_TORCHVISION = Names(
    ("features.0.0", "features.0.1"),
    lambda stage, place, number: f"features.{number + 1}.conv",
    ("0.0", "0.1", "1.0", "1.1", "2", "3"),
    ("0.0", "0.1", "1", "2"),
)
_FLAT = dataclasses.replace(
    _TORCHVISION, layers=("0", "1", "3", "4", "6", "7"), plain=("0", "1", "3", "4")
)


def _torchvision(match: re.Match[str]) -> str:
    number = _PLACES.index(match[1])
    layers = _TORCHVISION.layers if number else _TORCHVISION.plain
    return f"features.{number + 1}.conv.{layers[LAYERS.index(match[2]) - len(LAYERS)]}"


class MobileNetV2(InvertedResiduals):
    """MobileNetV2 of width 1, see `InvertedResiduals`."""

    momentum, eps = 0.1, 1e-5
    torch_names = TorchNames(
        "net.backbone.",
        (
            (r"^stem\.", "features.0."),
            (r"^blocks\.(\d+\.\d+)\.(\w+)", _torchvision),
        ),
        unused=r"(features\.18|conv|conv_head|bn2|classifier)\.",
    )

    def __init__(
        self, *, padding: Padding = "symmetric", semantics: BlockOptions, rngs: nnx.Rngs
    ) -> None:
        """PyTorch's weights were trained with `padding` "symmetric", TensorFlow's with "same_tf"."""
        super().__init__(_STAGES, padding=padding, semantics=semantics, rngs=rngs)

    def namings(self) -> tuple[Naming, ...]:
        """torchvision's, those of the lists that it had before, and timm's."""
        return (
            Naming("torchvision", IMAGENET),
            Naming("MobileNetV2 with flat blocks", IMAGENET, self.modules(_FLAT)),
            Naming("timm (mobilenetv2)", IMAGENET, self.modules(TIMM)),
        )
