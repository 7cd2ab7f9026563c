"""ResNet-18 backbone (He et al., arXiv 1512.03385; torchvision's variant)."""

import functools

import jax
from flax import nnx

from segblocks_jax.nn import BatchNorm, Conv, Semantics, map_pixels, max_pool, scope
from segblocks_jax.nn.regions import Features

_STEM_MOMENTUM = 0.1
_MOMENTUM = 0.05


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(
        self, in_features: int, features: int, stride: int, *, semantics: Semantics, rngs: nnx.Rngs
    ) -> None:
        """The shortcut is a 1x1 convolution where stride or width change, else the identity."""
        norm = functools.partial(BatchNorm, momentum=_MOMENTUM, semantics=semantics)
        self.conv1 = Conv(in_features, features, 3, stride=stride, rngs=rngs)
        self.bn1 = norm(features)
        self.conv2 = Conv(features, features, 3, rngs=rngs)
        self.bn2 = norm(features)
        shortcut = [
            Conv(in_features, features, 1, stride=stride, rngs=rngs),
            norm(features),
        ]
        changes = stride != 1 or in_features != features
        self.downsample = nnx.List(shortcut) if changes else None

    def __call__(self, x: Features) -> Features:
        """(n, h, w, in_features) -> (n, h / stride, w / stride, features)."""
        shortcut = x
        if self.downsample is not None:
            conv, norm = self.downsample
            shortcut = norm(conv(x))
        x = map_pixels(jax.nn.relu, self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return map_pixels(lambda a, b: jax.nn.relu(a + b), x, shortcut)


class ResNet(nnx.Module):
    """A ResNet of basic blocks without its classifier; gives the features of its four stages.

    Attributes:
        features: channels of the four stages, at strides 4, 8, 16 and 32.
    """

    min_block_size = 64  # At stride 32 a low block is then one pixel.

    def __init__(
        self,
        depths: tuple[int, int, int, int],
        *,
        width: int = 64,
        semantics: Semantics,
        rngs: nnx.Rngs,
    ) -> None:
        """Builds `depths[i]` blocks of ``width * 2**i`` channels in stage i."""
        self.features = tuple(width * 2**i for i in range(4))
        self.conv1 = Conv(3, width, 7, stride=2, rngs=rngs)
        self.bn1 = BatchNorm(width, momentum=_STEM_MOMENTUM, semantics=semantics)
        before = (width, *self.features)
        for i, (depth, features) in enumerate(zip(depths, self.features, strict=True)):
            blocks = [
                BasicBlock(
                    features if j else before[i],
                    features,
                    1 if j or not i else 2,
                    semantics=semantics,
                    rngs=rngs,
                )
                for j in range(depth)
            ]
            setattr(self, f"layer{i + 1}", nnx.List(blocks))

    def __call__(self, x: Features) -> list[Features]:
        """(n, h, w, 3), normalised -> the stages' outputs, after their last ReLU."""
        with scope("stem"):
            x = map_pixels(jax.nn.relu, self.bn1(self.conv1(x)))
            x = max_pool(x, window=3, stride=2, padding=1)
        outputs = []
        for i in range(1, 5):
            with scope(f"layer{i}"):
                for block in getattr(self, f"layer{i}"):
                    x = block(x)
            outputs.append(x)
        return outputs


def resnet18(*, width: int = 64, semantics: Semantics, rngs: nnx.Rngs) -> ResNet:
    """ResNet-18; `width` channels in the first stage."""
    return ResNet((2, 2, 2, 2), width=width, semantics=semantics, rngs=rngs)
