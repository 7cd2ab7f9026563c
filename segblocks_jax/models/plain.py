"""Layers of real-time networks, of Flax's own alone: what DDRNet and PIDNet are made of.

Modules are called as in the authors' programs, whose state dicts then fit by name. `sb.in_blocks` runs such networks
in blocks.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax.errors import InputError
from segblocks_jax.nn.initial import he_normal_out


def conv(
    in_features: int,
    features: int,
    size: int,
    stride: int = 1,
    *,
    groups: int = 1,
    bias: bool = False,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A convolution padded alike on all sides, in its input's dtype; kernels and biases begin as the authors'."""
    bound = 1 / math.sqrt(size * size * in_features // groups)
    return nnx.Conv(
        in_features,
        features,
        (size, size),
        stride,
        padding=size // 2,
        feature_group_count=groups,
        use_bias=bias,
        kernel_init=he_normal_out,
        bias_init=functools.partial(_uniform, bound),
        promote_dtype=_as_input,
        rngs=rngs,
    )


def _uniform(bound: float, key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def _as_input(arrays: Any, /, *, dtype: Any = None, inexact: bool = True) -> Any:
    """The parameters behind an image in its dtype, where Flax would promote the image to theirs."""
    image, *parameters = arrays
    return image, *(None if x is None else x.astype(image.dtype) for x in parameters)


class BatchNorm(nnx.BatchNorm):
    """As in PyTorch: the running variance is a sample's, n / (n - 1) times the batch's. Normalizes in float32."""

    def __init__(self, features: int, *, rngs: nnx.Rngs) -> None:
        """The momentum is PyTorch's 0.1, Flax's 0.9."""
        super().__init__(features, momentum=0.9, epsilon=1e-5, use_fast_variance=False, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:  # type: ignore[override]
        """Normalizes every channel. Raises InputError for one value a channel in training."""
        before = self.var[...]
        wide = x.astype(np.promote_types(x.dtype, np.float32))
        out = super().__call__(wide).astype(x.dtype)
        if not self.use_running_average:
            devices = 1 if self.axis_name is None else jax.lax.axis_size(self.axis_name)
            count = devices * math.prod(x.shape[:-1])
            if count < 2:
                raise InputError(
                    f"BatchNorm: one value a channel {x.shape} has no variance; train with 2 images or more at a time"
                )
            kept = self.momentum * before
            self.var[...] = kept + (self.var[...] - kept) * (count / (count - 1))
        return out


def conv_norm(
    in_features: int, features: int, size: int, stride: int = 1, *, rngs: nnx.Rngs
) -> nnx.Sequential:
    """Convolution, batch norm."""
    return nnx.Sequential(
        conv(in_features, features, size, stride, rngs=rngs), BatchNorm(features, rngs=rngs)
    )


def norm_conv(
    in_features: int,
    features: int,
    size: int = 1,
    *before: Callable[[Array], Array],
    groups: int = 1,
    rngs: nnx.Rngs,
) -> nnx.Sequential:
    """Functions `before`, batch norm, ReLU, convolution."""
    norm = BatchNorm(in_features, rngs=rngs)
    last = conv(in_features, features, size, groups=groups, rngs=rngs)
    return nnx.Sequential(*before, norm, jax.nn.relu, last)


def stem(features: int, *, rngs: nnx.Rngs) -> nnx.Sequential:
    """Two convolutions of stride 2, each with bias, batch norm and ReLU: an image to `features` channels at 1/4."""
    parts: list[Callable[[Array], Array]] = []
    for channels in (3, features):
        first = conv(channels, features, 3, 2, bias=True, rngs=rngs)
        parts += [first, BatchNorm(features, rngs=rngs), jax.nn.relu]
    return nnx.Sequential(*parts)


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut (He et al., arXiv 1512.03385)."""

    expansion = 1

    def __init__(
        self,
        in_features: int,
        features: int,
        stride: int = 1,
        *,
        relu: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        """`relu` at the end."""
        self.conv1 = conv(in_features, features, 3, stride, rngs=rngs)
        self.bn1 = BatchNorm(features, rngs=rngs)
        self.conv2 = conv(features, features, 3, rngs=rngs)
        self.bn2 = BatchNorm(features, rngs=rngs)
        self.downsample = _shortcut(in_features, features, stride, rngs)
        self.relu = relu

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n oh ow k"]:
        """(n, h, w, in_features) -> (n, h / stride, w / stride, features), sides rounded up."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = jax.nn.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x)) + shortcut
        return jax.nn.relu(x) if self.relu else x


class Bottleneck(nnx.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut, without ReLU at the end; gives twice `features` channels."""

    expansion = 2

    def __init__(
        self,
        in_features: int,
        features: int,
        stride: int = 1,
        *,
        relu: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        """The 3x3 has the stride. There is no ReLU at the end, whatever `relu`."""
        out = self.expansion * features
        self.conv1 = conv(in_features, features, 1, rngs=rngs)
        self.bn1 = BatchNorm(features, rngs=rngs)
        self.conv2 = conv(features, features, 3, stride, rngs=rngs)
        self.bn2 = BatchNorm(features, rngs=rngs)
        self.conv3 = conv(features, out, 1, rngs=rngs)
        self.bn3 = BatchNorm(out, rngs=rngs)
        self.downsample = _shortcut(in_features, out, stride, rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n oh ow k"]:
        """(n, h, w, in_features) -> (n, h / stride, w / stride, 2 features), sides rounded up."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = jax.nn.relu(self.bn1(self.conv1(x)))
        x = jax.nn.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x)) + shortcut


def _shortcut(
    in_features: int, features: int, stride: int, rngs: nnx.Rngs
) -> nnx.Sequential | None:
    if stride == 1 and in_features == features:
        return None
    return conv_norm(in_features, features, 1, stride, rngs=rngs)


def layer(
    block: type[BasicBlock] | type[Bottleneck],
    in_features: int,
    features: int,
    blocks: int,
    stride: int = 1,
    *,
    rngs: nnx.Rngs,
) -> nnx.Sequential:
    """Blocks in a row, the first with the stride; the last one's output is not rectified."""
    parts = []
    for i in range(blocks):
        relu = i < blocks - 1
        parts.append(block(in_features, features, stride, relu=relu, rngs=rngs))
        in_features, stride = features * block.expansion, 1
    return nnx.Sequential(*parts)


class Head(nnx.Module):
    """Batch norm, ReLU, 3x3, batch norm, ReLU, 1x1 with bias: features to logits of the same size."""

    def __init__(self, in_features: int, inner: int, features: int, *, rngs: nnx.Rngs) -> None:
        """`inner` channels between the convolutions."""
        self.bn1 = BatchNorm(in_features, rngs=rngs)
        self.conv1 = conv(in_features, inner, 3, rngs=rngs)
        self.bn2 = BatchNorm(inner, rngs=rngs)
        self.conv2 = conv(inner, features, 1, bias=True, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w k"]:
        """(n, h, w, in_features) -> (n, h, w, features)."""
        x = self.conv1(jax.nn.relu(self.bn1(x)))
        return self.conv2(jax.nn.relu(self.bn2(x)))


def resize(
    x: Float[Array, "n h w c"], like: Float[Array, "n oh ow k"]
) -> Float[Array, "n oh ow c"]:
    """Bilinear, to the height and width of `like`: half-pixel centers, clamped at the border."""
    shape = (x.shape[0], *like.shape[1:3], x.shape[3])
    return jax.image.resize(x, shape, "bilinear", antialias=False)
