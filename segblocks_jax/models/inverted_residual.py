"""Backbones of inverted residuals (Sandler et al., arXiv 1801.04381), as EfficientNet-Lites and MobileNetV2 are."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from segblocks_jax.models.network import TorchNames
from segblocks_jax.nn import BatchNorm, BlockOptions, Conv, pointwise, rematerialized, scope
from segblocks_jax.nn.layers import Padding
from segblocks_jax.nn.regions import Features

STEM = 32
"""Channels before the first stage."""
_OUTPUTS = (1, 2, 4, 6)  # Stages whose features the decoder reads, at strides 4, 8, 16 and 32.
LAYERS = ("expand_conv", "bn0", "depthwise_conv", "bn1", "project_conv", "bn2")
"""Of a block, in order; without expansion, the last four."""


@dataclasses.dataclass(frozen=True)
class Names:
    """What files call the modules of such a backbone.

    Attributes:
        stem: its convolution and its norm.
        block: the name of a block from its stage, its place there and its number among all.
        layers: of a block, in the order of `LAYERS`.
        plain: of a block without expansion.
    """

    stem: tuple[str, str]
    block: Callable[[int, int, int], str]
    layers: tuple[str, ...]
    plain: tuple[str, ...]


TIMM = Names(
    ("conv_stem", "bn1"),
    lambda stage, place, number: f"blocks.{stage}.{place}",
    ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"),
    ("conv_dw", "bn1", "conv_pw", "bn2"),
)


@dataclasses.dataclass(frozen=True)
class Stage:
    """Blocks in a row; the first one has the stride, the others 1."""

    repeat: int
    kernel: int
    stride: int
    expansion: int
    features: int


class InvertedResidual(nnx.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection; a shortcut where the shape stays."""

    def __init__(
        self,
        in_features: int,
        stage: Stage,
        stride: int,
        *,
        conv: Callable[..., Conv],
        norm: Callable[..., BatchNorm],
    ) -> None:
        """A block of a stage; `conv` and `norm` build its layers."""
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


class InvertedResiduals(nnx.Module):
    """A backbone without its classifier; gives maps of `features` channels at strides 4, 8, 16 and 32.

    Attributes:
        momentum, eps: of the norms.
    """

    torch_names: ClassVar[TorchNames] = TorchNames("net.backbone.")
    momentum: ClassVar[float]
    eps: ClassVar[float]

    def __init__(
        self,
        stages: Sequence[Stage],
        *,
        padding: Padding,
        semantics: BlockOptions,
        rngs: nnx.Rngs,
    ) -> None:
        """Seven stages behind a convolution of stride 2; `padding` of the layers with a stride, see `nn.Conv`."""
        conv = functools.partial(Conv, padding=padding, semantics=semantics, rngs=rngs)
        norm = functools.partial(
            BatchNorm, momentum=self.momentum, eps=self.eps, semantics=semantics
        )
        self.stem = nnx.List([conv(3, STEM, 3, stride=2), norm(STEM)])
        before = [STEM, *(stage.features for stage in stages)]
        self.blocks = nnx.List(
            nnx.List(
                InvertedResidual(
                    stage.features if j else before[i],
                    stage,
                    1 if j else stage.stride,
                    conv=conv,
                    norm=norm,
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

    def modules(self, names: Names) -> dict[str, str]:
        """The names of `torch_names` by those of other files, see `Naming`."""
        own = {name: f"stem.{i}" for i, name in enumerate(names.stem)}
        places = [(i, j) for i, stage in enumerate(self.blocks) for j in range(len(stage))]
        for number, (i, j) in enumerate(places):
            block, expands = names.block(i, j, number), self.blocks[i][j].expand_conv is not None
            layers = names.layers if expands else names.plain
            for name, layer in zip(layers, LAYERS[-len(layers) :], strict=True):
                own[f"{block}.{name}"] = f"blocks.{i}.{j}.{layer}"
        return {name: self.torch_names.below(path) for name, path in own.items()}
