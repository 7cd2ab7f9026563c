"""EfficientNet-Lite backbones 0 to 4: no squeeze-and-excitation, ReLU6 (Tan & Le, arXiv 1905.11946)."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx

from segblocks_jax.exact import exact
from segblocks_jax.models.network import Naming, TorchNames
from segblocks_jax.nn import BatchNorm, BlockOptions, Conv, pointwise, rematerialized, scope
from segblocks_jax.nn.regions import Features

_MOMENTUM = 0.01
_EPS = 1e-3
_STEM = 32


@dataclasses.dataclass(frozen=True)
class _Stage:
    repeat: int
    kernel: int
    stride: int
    expansion: int
    features: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
_OUTPUTS = (1, 2, 4, 6)  # Stages whose features the decoder reads, at strides 4, 8, 16 and 32.
_MULTIPLIERS = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))  # Width, depth.
# Layers of a block as published files call them; the first block has no expansion.
_LAYERS = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
_TIMM_FIRST = ("conv_dw", "bn1", "conv_pw", "bn2")
_TIMM = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
_TF = (127 / 255,) * 3, (128 / 255,) * 3  # Normalization of TensorFlow's weights.


class InvertedResidual(nnx.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection; a shortcut where the shape stays."""

    def __init__(
        self,
        in_features: int,
        stage: _Stage,
        stride: int,
        *,
        semantics: BlockOptions,
        rngs: nnx.Rngs,
    ) -> None:
        """The first block of a stage has its stride, the others 1."""

        def norm(features: int) -> BatchNorm:
            return BatchNorm(features, momentum=_MOMENTUM, eps=_EPS, semantics=semantics)

        conv = functools.partial(Conv, semantics=semantics, rngs=rngs)
        hidden = in_features * stage.expansion
        expands = stage.expansion > 1
        self.expand_conv = conv(in_features, hidden, 1) if expands else None
        self.bn0 = norm(hidden) if expands else None
        self.depthwise_conv = conv(hidden, hidden, stage.kernel, stride=stride, groups=hidden)
        self.bn1 = norm(hidden)
        self.project_conv = conv(hidden, stage.features, 1)
        self.bn2 = norm(stage.features)
        self.has_shortcut = stride == 1 and in_features == stage.features

    def __call__(self, x: Features) -> Features:
        """(n, h, w, in_features) -> (n, h / stride, w / stride, features)."""
        shortcut = x
        if self.expand_conv is not None and self.bn0 is not None:
            x = pointwise(jax.nn.relu6, self.bn0(self.expand_conv(x)))
        x = pointwise(jax.nn.relu6, self.bn1(self.depthwise_conv(x)))
        x = self.bn2(self.project_conv(x))
        return pointwise(jnp.add, x, shortcut) if self.has_shortcut else x


class EfficientNetLite(nnx.Module):
    """An EfficientNet-Lite without its classifier; gives maps of `features` channels at strides 4, 8, 16 and 32."""

    torch_names = TorchNames(
        "net.backbone.", ((r"^(blocks\.\d+\.\d+)\.", r"\1._"),), unused=r"(head|fc)\."
    )

    def __init__(self, variant: int, *, semantics: BlockOptions, rngs: nnx.Rngs) -> None:
        """Builds variant 0 to 4."""
        width, depth = _MULTIPLIERS[variant]
        self.stem = nnx.List(
            [
                Conv(3, _STEM, 3, stride=2, semantics=semantics, rngs=rngs),
                BatchNorm(_STEM, momentum=_MOMENTUM, eps=_EPS, semantics=semantics),
            ]
        )
        stages = [_scale(i, stage, width, depth) for i, stage in enumerate(_STAGES)]
        before = [_STEM, *(stage.features for stage in stages)]
        self.blocks = nnx.List(
            nnx.List(
                InvertedResidual(
                    stage.features if j else before[i],
                    stage,
                    1 if j else stage.stride,
                    semantics=semantics,
                    rngs=rngs,
                )
                for j in range(stage.repeat)
            )
            for i, stage in enumerate(stages)
        )
        self.features = tuple(stages[i].features for i in _OUTPUTS)

    def __call__(self, x: Features) -> list[Features]:
        """(n, h, w, 3), normalized -> four features."""
        with scope("stem"):
            conv, norm = self.stem
            x = pointwise(jax.nn.relu6, norm(conv(x)))
        outputs = []
        for i, stage in enumerate(self.blocks):
            with scope(f"stage{i + 1}"):
                for block in stage:
                    x = rematerialized(block, x)
            if i in _OUTPUTS:
                outputs.append(x)
        return outputs

    def namings(self) -> tuple[Naming, ...]:
        """All are of TensorFlow's weights, or of weights that were trained like them."""
        flat = {"_conv_stem": "stem.0", "_bn0": "stem.1"}
        flat |= {"_conv_head": "head.0", "_bn1": "head.1", "_fc": "fc"}
        timm = {"conv_stem": "stem.0", "bn1": "stem.1"}
        timm |= {"conv_head": "head.0", "bn2": "head.1", "classifier": "fc"}
        places = {
            f"blocks.{i}.{j}": block
            for i, stage in enumerate(self.blocks)
            for j, block in enumerate(stage)
        }
        for number, (place, block) in enumerate(places.items()):
            flat |= {f"_blocks.{number}.{layer}": f"{place}.{layer}" for layer in _LAYERS}
            theirs = _TIMM_FIRST if block.expand_conv is None else _TIMM
            layers = zip(theirs, _LAYERS[-len(theirs) :], strict=True)
            timm |= {f"{place}.{name}": f"{place}.{layer}" for name, layer in layers}
        return (
            Naming("RangiLyu/EfficientNet-Lite", _TF),
            Naming("efficientnet_pytorch", _TF, flat),
            Naming("timm (tf_efficientnet_lite)", ((0.5,) * 3, (0.5,) * 3), timm),
        )

    def stages(self) -> list[list[InvertedResidual]]:
        """The blocks that lead to each of the four outputs."""
        starts = (0, *(i + 1 for i in _OUTPUTS[:-1]))
        return [
            [block for stage in self.blocks[start : stop + 1] for block in stage]
            for start, stop in zip(starts, _OUTPUTS, strict=True)
        ]


def _scale(index: int, stage: _Stage, width: float, depth: float) -> _Stage:
    # Channels are rounded to multiples of 8, never more than 10% down; the first and last stage keep
    # their depth.
    wanted = stage.features * exact(width)
    features = max(8, int(wanted + 4) // 8 * 8)
    features += 8 * (10 * features < 9 * wanted)
    inner = 0 < index < len(_STAGES) - 1
    repeat = math.ceil(stage.repeat * exact(depth)) if inner else stage.repeat
    return dataclasses.replace(stage, features=features, repeat=repeat)
