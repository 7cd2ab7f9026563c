"""SwiftNets in PyTorch, in inference, with this library's weights: what `engine.py` compares with."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch_efficientnet import EfficientNet


class Unit(nn.Module):
    """Batch norm, ReLU, convolution."""

    def __init__(self, channels: int, features: int, size: int, bias: bool = False) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, features, size, padding=size // 2, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, channels, h, w) -> (n, features, h, w)."""
        return self.conv(F.relu(self.norm(x)))


class Block(nn.Module):
    """A residual block."""

    expansion = 1

    def __init__(self, channels: int, features: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, features, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.downsample = None
        if stride != 1 or channels != features:
            conv = nn.Conv2d(channels, features, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, channels, h, w) -> (n, features, h / stride, w / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(shortcut + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Bottleneck(nn.Module):
    """A residual block that is narrower inside."""

    expansion = 4

    def __init__(self, channels: int, features: int, stride: int) -> None:
        super().__init__()
        wide = features * self.expansion
        self.conv1 = nn.Conv2d(channels, features, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.conv3 = nn.Conv2d(features, wide, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wide)
        self.downsample = None
        if stride != 1 or channels != wide:
            conv = nn.Conv2d(channels, wide, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(wide))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, channels, h, w) -> (n, 4 features, h / stride, w / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        inner = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(shortcut + self.bn3(self.conv3(inner)))


class ResNet(nn.Module):
    """A ResNet's features at 1/4 .. 1/32."""

    def __init__(self, kind: type[Block] | type[Bottleneck], counts: tuple[int, ...]) -> None:
        super().__init__()
        self.features = tuple(channels * kind.expansion for channels in (64, 128, 256, 512))
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for i, features in enumerate((64, 128, 256, 512)):
            blocks = []
            for number in range(counts[i]):
                blocks.append(kind(channels, features, 2 if i > 0 and number == 0 else 1))
                channels = features * kind.expansion
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Normalized image -> four maps."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        stages = []
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
            stages.append(x)
        return stages


class Pyramid(nn.Module):
    """Spatial pyramid pooling."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.spp_bn = Unit(channels, features, 1)
        for i in range(3):
            setattr(self, f"spp{i}", Unit(features, features // 3, 1))
        self.spp_fuse = Unit(features + 3 * (features // 3), features, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, channels, h, w) -> (n, features, h, w)."""
        height, width = map(int, x.shape[2:])
        x = self.spp_bn(x)
        parts = [x]
        for i, rows in enumerate((8, 4, 2)):
            pooled = F.adaptive_avg_pool2d(x, (rows, max(1, round(rows * width / height))))
            level = getattr(self, f"spp{i}")(pooled)
            parts.append(F.interpolate(level, (height, width), mode="bilinear"))
        return self.spp_fuse(torch.cat(parts, 1))


class Step(nn.Module):
    """A step of the decoder."""

    def __init__(self, features: int, skip: int) -> None:
        super().__init__()
        self.bottleneck = Unit(skip, features, 1)
        self.blend_conv = Unit(features, features, 3)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """(n, features, h, w), (n, skip, 2h, 2w) -> (n, features, 2h, 2w)."""
        skip = self.bottleneck(skip)
        return self.blend_conv(F.interpolate(x, skip.shape[2:], mode="bilinear") + skip)


BACKBONES: dict[str, tuple[Callable[[], ResNet | EfficientNet], int]] = {
    "swiftnet_rn18": (lambda: ResNet(Block, (2, 2, 2, 2)), 128),
    "swiftnet_rn50": (lambda: ResNet(Bottleneck, (3, 4, 6, 3)), 128),
    "swiftnet_efflite1": (EfficientNet, 48),
}
"""Backbones, and the channels of their decoders."""


class SwiftNet(nn.Module):
    """The network, its parameters named as in the published checkpoints."""

    def __init__(self, model: str, num_classes: int) -> None:
        super().__init__()
        create, features = BACKBONES[model]
        self.backbone = create()
        *skips, deepest = self.backbone.features
        self.spp = nn.ModuleDict({"spp": Pyramid(deepest, features)})
        self.upsample = nn.ModuleList(Step(features, skip) for skip in reversed(skips))
        self.logits = Unit(features, num_classes, 1, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalized image (n, 3, h, w) -> logits (n, classes, h / 4, w / 4)."""
        *skips, x = self.backbone(x)
        x = self.spp["spp"](x)
        for step, skip in zip(self.upsample, reversed(skips), strict=True):
            x = step(x, skip)
        return self.logits(x)


def network(model: str, weights: dict[str, np.ndarray], num_classes: int) -> SwiftNet:
    """A network of `BACKBONES` in inference.

    Its weights have the names of the published checkpoints, without "net.".
    """
    net = SwiftNet(model, num_classes).eval()
    state = {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}
    missing, unexpected = net.load_state_dict(state, strict=False)
    if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
        raise ValueError(f"weights don't fit: missing {missing}, unexpected {unexpected}")
    return net


def compiled(net: SwiftNet, image: np.ndarray, dtype: str) -> Callable[[], np.ndarray]:
    """A network, compiled, channels last, as a function without arguments: logits (n, h, w, k), float32.

    Args:
        net: of `network`; changed.
        image: normalized, (n, h, w, 3), float32.
        dtype: of parameters and activations.
    """
    net = net.to(memory_format=torch.channels_last, dtype=getattr(torch, dtype))
    x = torch.from_numpy(image).to(net.logits.conv.weight.dtype)
    x = x.permute(0, 3, 1, 2)  # Channels last in memory.
    run = torch.compile(net, dynamic=False)

    def call() -> np.ndarray:
        with torch.inference_mode():
            return run(x).float().permute(0, 2, 3, 1).numpy()

    return call
