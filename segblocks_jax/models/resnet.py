"""ResNet backbones (He et al., arXiv 1512.03385; torchvision's variant)."""

import functools
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from segblocks_jax import nn
from segblocks_jax.errors import InputError
from segblocks_jax.models.network import IMAGENET, Naming, TorchNames
from segblocks_jax.nn.regions import Features

StrideIn = Literal["3x3", "1x1"]
STRIDE_IN: tuple[StrideIn, ...] = get_args(StrideIn)

_STEM_MOMENTUM = 0.1
_MOMENTUM = 0.05


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(
        self,
        in_features: int,
        width: int,
        stride: int,
        *,
        semantics: nn.BlockOptions,
        rngs: nnx.Rngs,
    ) -> None:
        """`width` channels inside and out."""
        norm = functools.partial(nn.BatchNorm, momentum=_MOMENTUM, semantics=semantics)
        conv = functools.partial(nn.Conv, semantics=semantics, rngs=rngs)
        self.conv1 = conv(in_features, width, 3, stride=stride)
        self.bn1 = norm(width)
        self.conv2 = conv(width, width, 3)
        self.bn2 = norm(width)
        self.downsample = _projection(in_features, width, stride, semantics, rngs)

    def __call__(self, x: Features) -> Features:
        """(n, h, w, in_features) -> (n, h / stride, w / stride, width)."""
        shortcut = _shortcut(self.downsample, x)
        x = nn.pointwise(jax.nn.relu, self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return nn.pointwise(jax.nn.relu, nn.pointwise(jnp.add, x, shortcut))


class Bottleneck(nnx.Module):
    """1x1, 3x3 and 1x1 convolution and a shortcut."""

    expansion = 4

    def __init__(
        self,
        in_features: int,
        width: int,
        stride: int,
        *,
        stride_in: StrideIn = "3x3",
        semantics: nn.BlockOptions,
        rngs: nnx.Rngs,
    ) -> None:
        """`width` channels inside, four times as many out; the stride in the convolution that `stride_in` names."""
        norm = functools.partial(nn.BatchNorm, momentum=_MOMENTUM, semantics=semantics)
        conv = functools.partial(nn.Conv, semantics=semantics, rngs=rngs)
        features = width * self.expansion
        first, second = (stride, 1) if stride_in == "1x1" else (1, stride)
        self.conv1 = conv(in_features, width, 1, stride=first)
        self.bn1 = norm(width)
        self.conv2 = conv(width, width, 3, stride=second)
        self.bn2 = norm(width)
        self.conv3 = conv(width, features, 1)
        self.bn3 = norm(features)
        self.downsample = _projection(in_features, features, stride, semantics, rngs)

    def __call__(self, x: Features) -> Features:
        """(n, h, w, in_features) -> (n, h / stride, w / stride, 4 width)."""
        shortcut = _shortcut(self.downsample, x)
        x = nn.pointwise(jax.nn.relu, self.bn1(self.conv1(x)))
        x = nn.pointwise(jax.nn.relu, self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return nn.pointwise(jax.nn.relu, nn.pointwise(jnp.add, x, shortcut))


def _projection(
    in_features: int, features: int, stride: int, semantics: nn.BlockOptions, rngs: nnx.Rngs
) -> nnx.List | None:
    """The shortcut's 1x1 convolution and norm, where stride or width change."""
    if stride == 1 and in_features == features:
        return None
    conv = nn.Conv(in_features, features, 1, stride=stride, semantics=semantics, rngs=rngs)
    return nnx.List([conv, nn.BatchNorm(features, momentum=_MOMENTUM, semantics=semantics)])


def _shortcut(projection: nnx.List | None, x: Features) -> Features:
    if projection is None:
        return x
    conv, norm = projection
    return norm(conv(x))


_VARIANTS: dict[int, tuple[type[BasicBlock | Bottleneck], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
}


class ResNet(nnx.Module):
    """A ResNet without its classifier; gives its four stages, of `features` channels, at strides 4, 8, 16 and 32."""

    torch_names = TorchNames("net.backbone.", unused=r"fc\.")

    def __init__(
        self,
        layers: int,
        *,
        width: int = 64,
        stride_in: StrideIn = "3x3",
        semantics: nn.BlockOptions,
        rngs: nnx.Rngs,
    ) -> None:
        """Builds 18, 34, 50 or 101 layers; ``width * 2**i`` inner channels in stage i.

        `stride_in` names the convolution of 50 and 101 layers' blocks that has the stride: "3x3", as in torchvision,
        or the first "1x1", as published and in Caffe and Keras. Weights of the one are no use to the other.

        Raises:
            InputError: `stride_in` is something else, or "1x1" for blocks without 1x1 convolutions.
        """
        block, depths = _VARIANTS[layers]
        deep = block is Bottleneck
        if stride_in not in (STRIDE_IN if deep else ("3x3",)):
            raise InputError(
                f"ResNet: stride_in is {stride_in!r} for {layers} layers; expected '3x3' or, for 50 and 101 layers,"
                " '1x1'"
            )
        given: dict[str, Any] = {"semantics": semantics, "rngs": rngs}
        if deep:
            given["stride_in"] = stride_in
        self.conv1 = nn.Conv(3, width, 7, stride=2, semantics=semantics, rngs=rngs)
        self.bn1 = nn.BatchNorm(width, momentum=_STEM_MOMENTUM, semantics=semantics)
        features = width
        outputs = []
        for i, depth in enumerate(depths):
            inner = width * 2**i
            stage: nnx.List = nnx.List()
            for j in range(depth):
                stride = 1 if j or not i else 2
                stage.append(block(features, inner, stride, **given))
                features = inner * block.expansion
            setattr(self, f"layer{i + 1}", stage)
            outputs.append(features)
        self.features = tuple(outputs)
        self.semantics = semantics

    def __call__(self, x: Features) -> list[Features]:
        """(n, h, w, 3), normalized -> the stages' outputs, after their last ReLU."""
        stem = functools.partial(_stem, semantics=self.semantics)
        with nn.scope("stem"):
            x = nn.rematerialized(stem, self.conv1, self.bn1, x)
        outputs = []
        for i in range(1, 5):
            with nn.scope(f"layer{i}"):
                for block in getattr(self, f"layer{i}"):
                    x = nn.rematerialized(block, x)
            outputs.append(x)
        return outputs

    @property
    def stem(self) -> tuple[nn.Conv, nn.BatchNorm]:
        """The first convolution and its norm."""
        return self.conv1, self.bn1

    def namings(self) -> tuple[Naming, ...]:
        """The files' names are those of `torch_names`."""
        return (Naming("torchvision and timm", IMAGENET),)


def _stem(
    conv: nn.Conv, norm: nn.BatchNorm, x: Features, *, semantics: nn.BlockOptions
) -> Features:
    x = nn.pointwise(jax.nn.relu, norm(conv(x)))
    return nn.max_pool(x, 3, 2, 1, semantics)
