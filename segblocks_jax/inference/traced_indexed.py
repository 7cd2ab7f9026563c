"""Which convolutions of a traced network `indexed_conv` has."""

from typing import Any

from segblocks_jax.traced.plan import Node
from segblocks_jax.traced.values import Plain, count
from segblocks_jax.traced.windows import Windows

DTYPES = ("float32", "bfloat16")
_DEEP = 16  # Channels of a group from which on it is worth a call of its own.


def by_index(node: Node) -> bool:
    """Whether `indexed_conv` has a convolution."""
    windows: Any = node.details
    source: Any
    kernel: Any
    result: Any
    source, kernel, result = *node.operands, node.results[0]
    if not windows.plain or source.dtype not in DTYPES or result.dtype != source.dtype:
        return False
    if kernel.origin == "image":
        return False
    channels, features = count(source.rest), count(result.rest)
    return windows.groups == 1 or windows.groups == channels == features


def of_images(node: Node) -> Windows | None:
    """The windows of a convolution of whole images that `indexed_conv` has, group by group."""
    params = node.details
    if node.name != "conv_general_dilated" or not isinstance(params, dict):
        return None
    (source, kernel), result = node.operands, node.results[0]
    assert isinstance(source, Plain)
    assert isinstance(kernel, Plain)
    numbers = params["dimension_numbers"]
    layout = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    if layout != ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)) or params["batch_group_count"] != 1:
        return None
    if any(f != 1 for f in params["lhs_dilation"]) or kernel.origin == "image":
        return None
    if source.dtype not in DTYPES or result.dtype != source.dtype:
        return None
    (kh, kw, depth, features), groups = kernel.shape, params["feature_group_count"]
    (top, _), (left, _) = params["padding"]
    given = params["window_strides"], params["rhs_dilation"], (top, left)
    windows = Windows((kh, kw), *given, groups)
    deep = groups == 1 or groups == source.shape[3] == features or depth >= _DEEP
    if not deep or not windows.plain or windows.shift is None:
        return None
    for axis, (reach, shift, stride) in enumerate(
        zip(windows.reach, windows.shift, windows.stride, strict=True), 1
    ):
        made = (source.shape[axis] + 2 * (reach // 2) - shift - reach - 1) // stride + 1
        if made != result.shape[axis]:
            return None
    return windows
