"""How resizing by a whole factor reads its input: the same taps around each place, recognized by its weights."""

import dataclasses
from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

_TOLERANCE = 2e-6


@dataclasses.dataclass(frozen=True)
class Taps:
    """How one axis is resized: ``out[up * i + k] = sum_d weights[k][d] in[down * i + first + d]``.

    Attributes:
        weights: (up, taps).
        first: the first tap's place.
        down: by how much windows move.
        border: what lies beyond the image: "zero"; "edge" for its outermost pixels; "none" for nothing, so that
            the weights of the others are divided by their sum.
    """

    weights: tuple[tuple[float, ...], ...]
    first: int
    down: int
    border: str

    @property
    def up(self) -> int:
        """Outputs for each step of the window."""
        return len(self.weights)

    @property
    def halo(self) -> int:
        """How far it reads beyond a block."""
        last = self.first + len(self.weights[0]) - self.down
        return max(0, -self.first, last)

    def matrix(self, length: int) -> np.ndarray:
        """(length, outputs): the weights of every output for every input."""
        steps = length // self.down
        made = np.zeros((length, steps * self.up))
        for i in range(steps):
            for k, row in enumerate(self.weights):
                for d, weight in enumerate(row):
                    place = self.down * i + self.first + d
                    inside = 0 <= place < length
                    if inside or self.border == "edge":
                        made[min(max(place, 0), length - 1), i * self.up + k] += weight
        return made / made.sum(0) if self.border == "none" else made

    def apply(self, padded: Array, axis: int, padding: int) -> Array:
        """Resizes parts along an axis that is padded by `padding`; float32 sums."""
        length = padded.shape[axis] - 2 * padding
        steps, wide = length // self.down, padded.astype(jnp.float32)
        phases = []
        for row in self.weights:
            terms = []
            for d, weight in enumerate(row):
                if weight:
                    start = padding + self.first + d
                    stop = start + (steps - 1) * self.down + 1
                    terms.append(weight * lax.slice_in_dim(wide, start, stop, self.down, axis))
            phases.append(sum(terms[1:], terms[0]))
        out = jnp.stack(phases, axis + 1)
        shape = (*padded.shape[:axis], steps * self.up, *padded.shape[axis + 1 :])
        return out.reshape(shape).astype(padded.dtype)


def recognize(matrix: Float[np.ndarray, "i o"]) -> Taps | None:
    """The taps of a matrix, if it resizes by a whole factor, each output alike but at the border."""
    length, outputs = matrix.shape
    if outputs % length == 0:
        up, down = outputs // length, 1
    elif length % outputs == 0:
        up, down = 1, length // outputs
    else:
        return None
    for taps in (*_candidates(up, down), *_measured(matrix, up, down)):
        if np.allclose(taps.matrix(length), matrix, atol=_TOLERANCE, rtol=0):
            return taps
    return None


def bilinear(up: int) -> Taps:
    """Bilinear upsampling: half-pixel centers, clamped at the border."""
    rows = []
    for k in range(up):
        place = (k + 0.5) / up - 0.5
        row = [0.0, 0.0, 0.0]
        low = int(np.floor(place))
        row[low + 1] += 1 - (place - low)
        row[low + 2] += place - low
        rows.append(tuple(row))
    return Taps(tuple(rows), -1, 1, "edge")


def _candidates(up: int, down: int) -> Iterable[Taps]:
    yield Taps(((1.0,),) * up, 0, down, "edge")
    if down == 1:
        yield bilinear(up)
    else:
        yield Taps((tuple([1 / down] * down),), 0, down, "edge")


def _measured(matrix: np.ndarray, up: int, down: int) -> Iterable[Taps]:
    """The taps that the outputs in the middle have."""
    length = matrix.shape[0]
    step = length // down // 2
    columns = matrix[:, step * up : (step + 1) * up]
    rows = np.flatnonzero(np.abs(columns).max(1) > _TOLERANCE)
    if not rows.size:
        return
    weights = columns[rows[0] : rows[-1] + 1].T
    sums = weights.sum(1)
    for border in ("edge", "zero", "none")[: 3 if np.allclose(sums, 1, atol=1e-5) else 2]:
        yield Taps(
            tuple(tuple(map(float, row)) for row in weights),
            int(rows[0]) - down * step,
            down,
            border,
        )


def is_resizing(matrix: Float[np.ndarray, "i o"]) -> bool:
    """Whether outputs are means around their places, so that positions stay those of the image."""
    length, outputs = matrix.shape
    if not np.allclose(matrix.sum(0), 1, atol=1e-3) or matrix.min() < -0.3:
        return False
    centers = (np.arange(length) + 0.5)[:, None]
    places = (np.abs(matrix) * centers).sum(0) / np.abs(matrix).sum(0)
    wanted = (np.arange(outputs) + 0.5) * length / outputs
    return bool(np.abs(places - wanted).max() <= max(1.0, length / outputs))
