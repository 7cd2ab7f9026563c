"""EfficientNet-Lite in PyTorch, straight from a state dict with the names of efficientnet_pytorch."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
F = torch.nn.functional

REPEATS = {0: (1, 2, 2, 3, 3, 4, 1), 1: (1, 3, 3, 4, 4, 5, 1), 2: (1, 3, 3, 4, 4, 5, 1)}
STRIDES = (1, 2, 2, 2, 1, 2, 1)
OUTPUTS = (1, 2, 4, 6)


def features(state, variant, image, padding="symmetric"):
    """Maps (n, c, h, w) at strides 4, 8, 16 and 32 of a normalized image (n, h, w, 3), in the image's precision.

    `padding` is "symmetric", as PyTorch's layers have it, or "tf", TensorFlow's SAME: a row more behind than before,
    and at stride 2 on even sides nothing else.
    """
    x = torch.from_numpy(np.ascontiguousarray(image.transpose(0, 3, 1, 2)))
    state = {name: torch.from_numpy(np.array(value)).to(x.dtype) for name, value in state.items()}

    def conv(name, x, stride=1):
        weight = state[f"{name}.weight"]
        groups = len(weight) if weight.shape[1] == 1 else 1
        k = weight.shape[-1]
        if padding == "symmetric":
            return F.conv2d(x, weight, stride=stride, padding=k // 2, groups=groups)
        height, width = (max((math.ceil(n / stride) - 1) * stride + k - n, 0) for n in x.shape[2:])
        x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return F.conv2d(x, weight, stride=stride, groups=groups)

    def norm(name, x):
        arrays = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{array}"] for array in arrays), eps=1e-3)

    x = F.relu6(norm("_bn0", conv("_conv_stem", x, 2)))
    outputs, number = [], 0
    for stage, repeat in enumerate(REPEATS[variant]):
        for j in range(repeat):
            block, before = f"_blocks.{number}", x
            if f"{block}._expand_conv.weight" in state:
                x = F.relu6(norm(f"{block}._bn0", conv(f"{block}._expand_conv", x)))
            x = conv(f"{block}._depthwise_conv", x, 1 if j else STRIDES[stage])
            x = F.relu6(norm(f"{block}._bn1", x))
            x = norm(f"{block}._bn2", conv(f"{block}._project_conv", x))
            x = x + before if x.shape == before.shape else x
            number += 1
        if stage in OUTPUTS:
            outputs.append(x)
    return [x.numpy() for x in outputs]
