"""Residual blocks that compute where a mask says so: BasicBlock, Bottleneck, InvertedResidual.

Each is a shortcut and a chain of convolutions. The first one is needed at the dilated mask's pixels, the others at
the mask's; so all three kinds run by the same few lines, dense or sparse (`execution`).
"""

import functools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax import nn
from segblocks_jax.errors import InputError
from segblocks_jax.nn.initial import he_normal_out
from segblocks_jax.ops.indexed_conv import Activation
from segblocks_jax.systems.dynconv.execution import Pass, dense, layer, sparse
from segblocks_jax.systems.dynconv.layers import Layer
from segblocks_jax.systems.dynconv.masks import MaskKind, MaskUnit

MOMENTUM = 0.1
Image = Float[Array, "n _h _w _c"]


class MaskedBlock(nnx.Module):
    """``activation(shortcut(x) + mask * chain(x))``; without a mask unit, the mask is 1 everywhere.

    In training the chain runs on all pixels, and batch statistics are those of all.

    Attributes:
        activation: of the sum, "relu" or "none".
        dilate_stride: of the chain's second convolution, by which the mask is dilated.
        masker: the mask unit, or None.
        downsample: the shortcut's convolution and norm, or None.
        activated: whether inputs are known to be `activation` of something, so that sparse execution leaves pixels
            that aren't active as they are.
    """

    activation: ClassVar[Activation]
    dilate_stride: int
    masker: MaskUnit | None
    downsample: nnx.List | None
    activated = False

    def layers(self) -> tuple[Layer, ...]:
        """The chain."""
        raise NotImplementedError

    def __call__(self, x: Image, run: Pass) -> Image:
        """(n, h, w, c) -> (n, h / stride, w / stride, k)."""
        shortcut = x if self.downsample is None else layer(Layer.of(self.downsample), x, run)
        if self.masker is None:
            return dense(self.layers(), x, run, shortcut, self.activation, winograd=True)
        mask = run.decide(self.masker, x, self)
        if run.sparse:
            chain = self.layers(), x, mask, self.dilate_stride, run
            return sparse(
                *chain, shortcut, self.activation, activated=shortcut is x and self.activated
            )
        out = dense(self.layers(), x, run)
        if mask.dtype != bool:
            out = out * mask[..., None].astype(out.dtype)
            return _activate(shortcut + out, self.activation)
        active = jnp.broadcast_to(mask[..., None], out.shape)
        return _activate(jnp.where(active, shortcut + out, shortcut), self.activation)

    @property
    def macs(self) -> int:
        """Multiply-adds at an active pixel of the mask."""
        return sum(math.prod(item.conv.kernel.shape) for item in self.layers()[1:])

    @property
    def dilated_macs(self) -> int:
        """Multiply-adds at an active pixel of the dilated mask."""
        return math.prod(self.layers()[0].conv.kernel.shape)


def _activate(x: Image, activation: Activation) -> Image:
    return jax.nn.relu(x) if activation == "relu" else x


def norm(features: int) -> nn.BatchNorm:
    """Batch norm as in all networks here."""
    return nn.BatchNorm(features, momentum=MOMENTUM, semantics=nn.BlockOptions())


conv = functools.partial(nn.Conv, kernel_init=he_normal_out)


class BasicBlock(MaskedBlock):
    """Two 3x3 convolutions, the first with the stride."""

    activation = "relu"
    expansion = 1
    dilate_stride = 1

    def __init__(
        self, in_features: int, width: int, stride: int, *, mask: MaskKind | None, rngs: nnx.Rngs
    ) -> None:
        """`width` channels inside and out; `mask` is the kind of mask unit, None: none."""
        self.conv1 = conv(in_features, width, 3, stride=stride, rngs=rngs)
        self.bn1 = norm(width)
        self.conv2 = conv(width, width, 3, rngs=rngs)
        self.bn2 = norm(width)
        self.downsample = _projection(in_features, width, stride, rngs)
        self.masker = None if mask is None else MaskUnit(in_features, stride, mask, rngs=rngs)

    def layers(self) -> tuple[Layer, ...]:
        """The chain."""
        return Layer(self.conv1, self.bn1, "relu"), Layer(self.conv2, self.bn2)


class Bottleneck(MaskedBlock):
    """1x1, 3x3 with the stride, and 1x1 convolution."""

    activation = "relu"
    expansion = 4

    def __init__(
        self, in_features: int, width: int, stride: int, *, mask: MaskKind | None, rngs: nnx.Rngs
    ) -> None:
        """`width` channels inside, four times as many out; `mask` is the kind of mask unit, None: none."""
        features = width * self.expansion
        self.conv1 = conv(in_features, width, 1, rngs=rngs)
        self.bn1 = norm(width)
        self.conv2 = conv(width, width, 3, stride=stride, rngs=rngs)
        self.bn2 = norm(width)
        self.conv3 = conv(width, features, 1, rngs=rngs)
        self.bn3 = norm(features)
        self.dilate_stride = stride
        self.downsample = _projection(in_features, features, stride, rngs)
        self.masker = None if mask is None else MaskUnit(in_features, stride, mask, rngs=rngs)

    def layers(self) -> tuple[Layer, ...]:
        """The chain."""
        return (
            Layer(self.conv1, self.bn1, "relu"),
            Layer(self.conv2, self.bn2, "relu"),
            Layer(self.conv3, self.bn3),
        )


class InvertedResidual(MaskedBlock):
    """1x1 expansion, 3x3 depthwise, linear 1x1; with a shortcut, and a mask, only where the shape stays."""

    activation = "none"
    dilate_stride = 1
    downsample = None

    def __init__(
        self,
        in_features: int,
        features: int,
        stride: int = 1,
        expansion: int = 6,
        *,
        mask: MaskKind | None,
        rngs: nnx.Rngs,
    ) -> None:
        """`expansion` times as many channels inside; `mask` is the kind of mask unit, None: none."""
        if expansion < 1:
            raise InputError(f"InvertedResidual: expansion is {expansion}; expected at least 1")
        hidden = in_features * expansion
        self.expand_conv = None if expansion == 1 else conv(in_features, hidden, 1, rngs=rngs)
        self.bn0 = None if expansion == 1 else norm(hidden)
        self.depthwise_conv = conv(hidden, hidden, 3, stride=stride, groups=hidden, rngs=rngs)
        self.bn1 = norm(hidden)
        self.project_conv = conv(hidden, features, 1, rngs=rngs)
        self.bn2 = norm(features)
        self.has_shortcut = stride == 1 and in_features == features
        masked = mask is not None and self.has_shortcut and expansion > 1
        self.masker = MaskUnit(in_features, 1, mask, rngs=rngs) if masked and mask else None

    def layers(self) -> tuple[Layer, ...]:
        """The chain."""
        first: tuple[Layer, ...] = ()
        if self.expand_conv is not None:
            first = (Layer(self.expand_conv, self.bn0, "relu6"),)
        depthwise = Layer(self.depthwise_conv, self.bn1, "relu6")
        return (*first, depthwise, Layer(self.project_conv, self.bn2))

    def __call__(self, x: Image, run: Pass) -> Image:
        """(n, h, w, c) -> (n, h / stride, w / stride, k)."""
        if not self.has_shortcut:
            return dense(self.layers(), x, run, winograd=True)
        return super().__call__(x, run)


def _projection(in_features: int, features: int, stride: int, rngs: nnx.Rngs) -> nnx.List | None:
    """The shortcut's 1x1 convolution and norm, where stride or width change."""
    if stride == 1 and in_features == features:
        return None
    return nnx.List([conv(in_features, features, 1, stride=stride, rngs=rngs), norm(features)])
