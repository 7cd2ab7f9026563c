"""Winograd's minimal filtering of 3 x 3 kernels, for squares of 2 x 2 outputs: the kernel's part.

Of stride 1, F(2 x 2, 3 x 3) of Lavin and Gray, "Fast algorithms for convolutional neural networks"
(2016): 16 products instead of 36. Of stride 2, along each axis the even taps are F(2, 2) and the odd
one is plain: 25 products instead of 36. Inputs and outputs are transformed by the handler.
"""

import numpy as np

# Along one axis: the transformed taps, and those that each point sums up.
_TAPS = {
    1: np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]),
    2: np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 1, 0], [0, 0, 1]]),
}
_POINTS = {1: ([0], [1], [2], [3]), 2: ([0, 1], [2], [3, 4])}
# The kernel from its transformed taps.
_INVERSE = {
    1: np.array([[1, 0, 0, 0], [0, 1, -1, 0], [0, 0, 0, 1]]),
    2: np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1]]),
}
STRIDES = tuple(_TAPS)


def forward(stride: int) -> np.ndarray:
    """(taps, 9): what makes the transformed taps of a 3 x 3 kernel; those of a point lie together."""
    return np.kron(_TAPS[stride], _TAPS[stride])[_order(stride)].astype(np.float32)


def inverse(stride: int) -> np.ndarray:
    """(9, taps): what makes the kernel of its transformed taps."""
    return np.kron(_INVERSE[stride], _INVERSE[stride])[:, _order(stride)].astype(np.float32)


def _order(stride: int) -> list[int]:
    points, side = _POINTS[stride], len(_TAPS[stride])
    return [r * side + s for a in points for b in points for r in a for s in b]
