"""EfficientNet-Lite1's features in PyTorch, in inference, named as in the published SwiftNet checkpoints."""

import torch
from torch import nn
from torch.nn import functional as F

STAGES = (
    (1, 3, 1, 1, 16),
    (3, 3, 2, 6, 24),
    (3, 5, 2, 6, 40),
    (4, 3, 2, 6, 80),
    (4, 5, 1, 6, 112),
    (5, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, kernel, stride, expansion and channels."""
OUTPUTS = (1, 2, 4, 6)
"""Stages that the decoder reads."""
_EPS = 1e-3


class InvertedResidual(nn.Module):
    """A 1 x 1 expansion, a depthwise convolution, a linear 1 x 1 projection."""

    def __init__(self, channels: int, features: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        hidden = channels * expansion
        self._expand_conv = None
        if expansion > 1:
            self._expand_conv = nn.Conv2d(channels, hidden, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(hidden, _EPS)
        self._depthwise_conv = nn.Conv2d(
            hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False
        )
        self._bn1 = nn.BatchNorm2d(hidden, _EPS)
        self._project_conv = nn.Conv2d(hidden, features, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(features, _EPS)
        self._shortcut = stride == 1 and channels == features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, channels, h, w) -> (n, features, h / stride, w / stride)."""
        shortcut = x
        if self._expand_conv is not None:
            x = F.relu6(self._bn0(self._expand_conv(x)))
        x = F.relu6(self._bn1(self._depthwise_conv(x)))
        x = self._bn2(self._project_conv(x))
        return x + shortcut if self._shortcut else x


class EfficientNet(nn.Module):
    """Features at 1/4 .. 1/32."""

    features = tuple(STAGES[i][-1] for i in OUTPUTS)

    def __init__(self) -> None:
        super().__init__()
        channels = 32
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels, _EPS), nn.ReLU6()
        )
        stages = []
        for count, kernel, stride, expansion, features in STAGES:
            blocks = []
            for number in range(count):
                step = 1 if number else stride
                blocks.append(InvertedResidual(channels, features, kernel, step, expansion))
                channels = features
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.ModuleList(stages)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Normalized image -> four maps."""
        x = self.stem(x)
        outputs = []
        for i, stage in enumerate(self.blocks):
            x = stage(x)
            if i in OUTPUTS:
                outputs.append(x)
        return outputs
