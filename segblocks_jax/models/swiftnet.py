"""SwiftNet, single scale (Orsic et al., arXiv 1903.08469): backbone, pyramid pooling, light decoder."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax import nn
from segblocks_jax.blocks import DualRes
from segblocks_jax.errors import InputError
from segblocks_jax.models.efficientnet_lite import EfficientNetLite
from segblocks_jax.models.inverted_residual import InvertedResiduals
from segblocks_jax.models.mobilenet_v2 import MobileNetV2
from segblocks_jax.models.network import NetworkEntry, TorchNames
from segblocks_jax.models.resnet import ResNet, StrideIn
from segblocks_jax.nn.layers import Padding
from segblocks_jax.nn.regions import Features

_MOMENTUM = 0.05
_PYRAMID_MOMENTUM = 0.005
_PYRAMID_ROWS = (8, 4, 2)


class PreActivation(nnx.Module):
    """Batch norm, ReLU, convolution."""

    def __init__(
        self,
        in_features: int,
        features: int,
        kernel_size: int,
        *,
        momentum: float = _MOMENTUM,
        use_bias: bool = False,
        semantics: nn.BlockOptions,
        rngs: nnx.Rngs,
    ) -> None:
        """Pads so that the size stays."""
        self.norm = nn.BatchNorm(in_features, momentum=momentum, semantics=semantics)
        self.conv = nn.Conv(
            in_features, features, kernel_size, use_bias=use_bias, semantics=semantics, rngs=rngs
        )

    def __call__(self, x: Features) -> Features:
        """(n, h, w, in_features) -> (n, h, w, features)."""
        return self.conv(nn.pointwise(jax.nn.relu, self.norm(x)))


class PyramidPooling(nnx.Module):
    """Spatial pyramid pooling over the whole image."""

    torch_names = TorchNames(
        "net.spp.",
        (
            (r"^reduce\.", "spp.spp_bn."),
            (r"^levels\.(\d+)\.", r"spp.spp\1."),
            (r"^fuse\.", "spp.spp_fuse."),
        ),
    )

    def __init__(
        self, in_features: int, features: int, *, semantics: nn.BlockOptions, rngs: nnx.Rngs
    ) -> None:
        """Pools to grids of 8, 4 and 2 rows with a third of the channels each."""
        unit = functools.partial(
            PreActivation, momentum=_PYRAMID_MOMENTUM, semantics=semantics, rngs=rngs
        )
        level = features // len(_PYRAMID_ROWS)
        if level < 1:
            raise InputError(
                f"SwiftNet: features is {features}; expected at least {len(_PYRAMID_ROWS)}, one channel for"
                " each grid of the pyramid"
            )
        self.reduce = unit(in_features, features, 1)
        self.levels = nnx.List([unit(features, level, 1) for _ in _PYRAMID_ROWS])
        fused = features + level * len(_PYRAMID_ROWS)
        self.fuse = unit(fused, features, 1)

    def __call__(self, image: Float[Array, "n h w c"]) -> Float[Array, "n h w k"]:
        """(n, h, w, in_features) -> (n, h, w, features)."""
        height, width = image.shape[1:3]
        image = self.reduce(image)
        parts = [image]
        for rows, level in zip(_PYRAMID_ROWS, self.levels, strict=True):
            grid = (rows, max(1, round(rows * width / height)))
            pooled = level(nn.adaptive_average_pool(image, grid))
            parts.append(nn.resize_bilinear(pooled, (height, width)))
        return self.fuse(jnp.concatenate(parts, -1))


class Upsample(nnx.Module):
    """One step of the decoder: doubles the size, adds a skip connection, blends."""

    def __init__(
        self, features: int, skip_features: int, *, semantics: nn.BlockOptions, rngs: nnx.Rngs
    ) -> None:
        """`skip_features` channels come from the backbone."""
        self.bottleneck = PreActivation(skip_features, features, 1, semantics=semantics, rngs=rngs)
        self.blend_conv = PreActivation(features, features, 3, semantics=semantics, rngs=rngs)
        self.semantics = semantics

    def __call__(self, x: Features, skip: Features) -> Features:
        """(n, h, w, features), (n, 2h, 2w, skip_features) -> (n, 2h, 2w, features)."""
        x = nn.pointwise(jnp.add, nn.upsample2(x, self.semantics), self.bottleneck(skip))
        return self.blend_conv(x)


class SwiftNet(nnx.Module):
    """A segmentation network that runs on images and on blocks.

    ``net(image)`` gives logits (n, h / 4, w / 4, classes), ``net(split(image, mask))`` a `DualRes` of
    them. With the default semantics, in evaluation mode, an all-high grid gives the image's logits.
    """

    output_stride = 4
    torch_names = TorchNames("net.")

    def __init__(
        self,
        backbone: ResNet | InvertedResiduals,
        num_classes: int,
        *,
        features: int = 128,
        semantics: nn.BlockOptions,
        rngs: nnx.Rngs,
    ) -> None:
        """`features` channels in the decoder."""
        self.semantics = semantics
        self.num_classes = num_classes
        self.backbone = backbone
        *skips, deepest = backbone.features
        self.spp = PyramidPooling(deepest, features, semantics=semantics, rngs=rngs)
        step = functools.partial(Upsample, features, semantics=semantics, rngs=rngs)
        self.upsample = nnx.List([step(skip) for skip in reversed(skips)])
        self.logits = PreActivation(
            features, num_classes, 1, use_bias=True, semantics=semantics, rngs=rngs
        )

    def __call__(self, x: Features) -> Features:
        """Normalized image (n, h, w, 3), h and w multiples of 32, or blocks of it -> logits at 1/4.

        Raises:
            ValueError: blocks of a size that it can't have, see `segblocks_jax.nn.block_multiple`.
        """
        if isinstance(x, DualRes):
            nn.check_blocks(self, x)
        with nn.scope("backbone"):
            stages = self.backbone(x)
        with nn.scope("spp"):
            x = nn.on_full_image(self.spp, stages[-1], self.semantics)
        for i, (upsample, skip) in enumerate(
            zip(self.upsample, reversed(stages[:-1]), strict=True)
        ):
            with nn.scope(f"upsample{i}"):
                x = nn.rematerialized(upsample, x, skip)
        with nn.scope("logits"):
            return nn.rematerialized(self.logits, x)


@dataclasses.dataclass(frozen=True)
class ResNetOptions:
    """Options of a SwiftNet with a ResNet.

    Attributes:
        width: inner channels of the backbone's first stage.
        features: channels of the decoder.
        stride_in: see `ResNet`.
    """

    width: int = 64
    features: int = 128
    stride_in: StrideIn = "3x3"


@dataclasses.dataclass(frozen=True)
class InvertedResidualsOptions:
    """Options of a SwiftNet with an EfficientNet-Lite or MobileNetV2.

    Attributes:
        features: channels of the decoder.
        padding: of the backbone, see `segblocks_jax.nn.Conv`.
    """

    features: int = 48
    padding: Padding = "symmetric"


def _with_resnet(layers: int, num_classes: int, options: ResNetOptions, **given: Any) -> SwiftNet:
    backbone = ResNet(layers, width=options.width, stride_in=options.stride_in, **given)
    return SwiftNet(backbone, num_classes, features=options.features, **given)


def _with_inverted_residuals(
    build: Callable[..., InvertedResiduals],
    num_classes: int,
    options: InvertedResidualsOptions,
    **given: Any,
) -> SwiftNet:
    backbone = build(padding=options.padding, **given)
    return SwiftNet(backbone, num_classes, features=options.features, **given)


_INVERTED_RESIDUALS: dict[str, Callable[..., InvertedResiduals]] = {
    **{f"efflite{n}": functools.partial(EfficientNetLite, n) for n in range(5)},
    "mobilenetv2": MobileNetV2,
}
NETWORKS = {
    f"swiftnet_rn{n}": NetworkEntry(ResNetOptions, functools.partial(_with_resnet, n))
    for n in (18, 34, 50, 101)
} | {
    f"swiftnet_{name}": NetworkEntry(
        InvertedResidualsOptions, functools.partial(_with_inverted_residuals, build)
    )
    for name, build in _INVERTED_RESIDUALS.items()
}
