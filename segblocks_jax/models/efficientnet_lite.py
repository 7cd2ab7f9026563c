"""EfficientNet-Lite backbones 0 to 4: no squeeze-and-excitation, ReLU6 (Tan & Le, arXiv 1905.11946)."""

import dataclasses
import math

from flax import nnx

from segblocks_jax.exact import exact
from segblocks_jax.models.inverted_residual import LAYERS, TIMM, InvertedResiduals, Names, Stage
from segblocks_jax.models.network import Naming, TorchNames
from segblocks_jax.nn import BlockOptions
from segblocks_jax.nn.layers import Padding

_STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
_MULTIPLIERS = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))  # Width, depth.
# Names of the `efficientnet_pytorch` package, and of what was made with it.
_LAYERS = tuple(f"_{layer}" for layer in LAYERS)
_EFFICIENTNET_PYTORCH = Names(
    ("_conv_stem", "_bn0"),
    lambda stage, place, number: f"_blocks.{number}",
    _LAYERS,
    _LAYERS[-4:],
)
_TF = (127 / 255,) * 3, (128 / 255,) * 3  # Normalization of TensorFlow's weights.
_HALF = (0.5,) * 3, (0.5,) * 3  # As timm converted them.


class EfficientNetLite(InvertedResiduals):
    """An EfficientNet-Lite, see `InvertedResiduals`."""

    momentum, eps = 0.01, 1e-3
    torch_names = TorchNames(
        "net.backbone.",
        ((r"^(blocks\.\d+\.\d+)\.", r"\1._"),),
        unused=r"(head|fc|_conv_head|_bn1|_fc|conv_head|bn2|classifier)\.",
    )

    def __init__(
        self,
        variant: int,
        *,
        padding: Padding = "symmetric",
        semantics: BlockOptions,
        rngs: nnx.Rngs,
    ) -> None:
        """Builds variant 0 to 4. The published weights were trained with `padding` "same_tf"."""
        stages = [_scale(i, stage, *_MULTIPLIERS[variant]) for i, stage in enumerate(_STAGES)]
        super().__init__(stages, padding=padding, semantics=semantics, rngs=rngs)

    def namings(self) -> tuple[Naming, ...]:
        """All are of TensorFlow's weights, or of weights that were trained like them."""
        return (
            Naming("RangiLyu/EfficientNet-Lite", _TF),
            Naming("efficientnet_pytorch", _TF, self.modules(_EFFICIENTNET_PYTORCH)),
            Naming("timm (tf_efficientnet_lite)", _HALF, self.modules(TIMM)),
        )


def _scale(index: int, stage: Stage, width: float, depth: float) -> Stage:
    # Channels are rounded to multiples of 8, never more than 10% down; the first and last stage keep
    # their depth.
    wanted = stage.features * exact(width)
    features = max(8, int(wanted + 4) // 8 * 8)
    features += 8 * (10 * features < 9 * wanted)
    inner = 0 < index < len(_STAGES) - 1
    repeat = math.ceil(stage.repeat * exact(depth)) if inner else stage.repeat
    return dataclasses.replace(stage, features=features, repeat=repeat)
