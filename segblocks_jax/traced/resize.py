"""Resizing by whole factors, recognized by its weights: each output reads the same taps around its place."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from segblocks_jax.traced.plan import Builder
from segblocks_jax.traced.runtime import Runtime
from segblocks_jax.traced.values import Map, NotInBlocks, Plain, check_halo

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


@dataclasses.dataclass(frozen=True)
class Resizing:
    """The details of a resizing node: taps along rows and columns, None where they stay; each block alone or not."""

    taps: tuple[Taps | None, Taps | None]
    alone: bool = False

    @property
    def halo(self) -> int:
        """Pixels around blocks that are read."""
        return max(t.halo for t in self.taps if t is not None)


def resized(tracer: Builder, value: Map, taps: tuple[Taps | None, Taps | None], name: str) -> Map:
    """A map with rows and columns resized."""
    side, sizes = [], dict(zip("hw", taps, strict=True))
    for length, own in zip(value.side, taps, strict=True):
        up, down = (1, 1) if own is None else (own.up, own.down)
        if length * up % (down * tracer.geometry.low_factor) or length % down:
            raise NotInBlocks(f"its step of {down} doesn't divide low blocks' sides here")
        side.append(length * up // down)
    shape = []
    for length, axis in zip(value.shape, value.axes, strict=True):
        own = sizes.get(axis)
        shape.append(length if own is None else length * own.up // own.down)
    result = Map(tracer.number(), tuple(shape), value.dtype, value.axes, (side[0], side[1]))
    own_side, rest = value.side, value.rest
    padding = tuple(0 if t is None else t.halo for t in taps)
    border = next((t.border for t in taps if t is not None and t.halo), "edge")
    outside = "edge" if border == "edge" or tracer.options.interpolation == "block" else 0.0
    if any(t is not None and t.halo and t.border != border for t in taps):
        raise NotInBlocks("its borders differ")
    check_halo(tracer.geometry, value.side, padding)
    alone = tracer.options.interpolation == "block" and any(padding)
    details = Resizing(taps, alone)

    def run(runtime: Runtime, pixels: Array) -> Array:
        if not any(padding):
            high, low = runtime.parts(pixels, own_side)
        elif alone:
            around = ((0, 0), *((p, p) for p in padding), (0, 0))
            flat = pixels.reshape(pixels.shape[0], -1)
            high, low = (jnp.pad(x, around, "edge") for x in runtime.parts(flat, own_side))
        else:
            high, low = runtime.pad(pixels, own_side, (padding[0], padding[1]), outside)
        parts = [_applied(part, taps, padding) for part in (high, low)]
        if border == "none" and not alone:
            ones = jnp.ones((pixels.shape[0], 1), pixels.dtype)
            sums = runtime.pad(ones, own_side, (padding[0], padding[1]))
            parts = [
                part / _applied(own, taps, padding) for part, own in zip(parts, sums, strict=True)
            ]
        return runtime.join(*parts).reshape(-1, *rest)

    how: Any = "blocks" if any(padding) else "pixels"
    return tracer.mapped(name, run, (value,), result, how=how, details=details)


def _applied(part: Array, taps: tuple[Taps | None, Taps | None], padding: Sequence[int]) -> Array:
    for axis, (own, p) in enumerate(zip(taps, padding, strict=True)):
        part = part if own is None else own.apply(part, axis + 1, p)
    return part


def sampled(
    tracer: Builder, value: Map, axis: int, picks: Sequence[int] | range | np.ndarray
) -> Map:
    """The rows or columns of a map at constant places, where that is resizing by a whole factor."""
    if value.axes[axis] not in ("h", "w"):
        raise NotInBlocks("it takes pixels by their place")
    matrix = np.zeros((value.shape[axis], len(picks)))
    matrix[np.asarray(picks), np.arange(len(picks))] = 1
    taps = recognize(matrix)
    if taps is None:
        raise NotInBlocks("it crops or moves the image")
    if value.axes[axis] == "h":
        return resized(tracer, value, (taps, None), "resize")
    return resized(tracer, value, (None, taps), "resize")


def matrix_axis(values: Sequence[Any], numbers: Any) -> tuple[int, int, int] | None:
    """(position of the map, its axis, the matrix's) of a product with a matrix along rows or columns."""
    (contract, batch) = numbers
    if any(batch) or len(contract[0]) != 1:
        return None
    for i, v in enumerate(values):
        other = values[1 - i]
        along = isinstance(v, Map) and v.axes[contract[i][0]] in ("h", "w")
        if along and isinstance(other, Plain) and len(other.shape) == 2:
            return i, contract[i][0], contract[1 - i][0]
    return None


def resample(tracer: Builder, eqn: Any, values: Sequence[Any]) -> Map:
    """A map times a constant matrix along rows or columns; NotInBlocks if that is no resizing.

    Its new axis is the first or the last, as that of the product is.
    """
    found = matrix_axis(values, eqn.params["dimension_numbers"])
    if found is None:
        raise NotInBlocks("it sums over the image")
    i, axis, along = found
    value, other = values[i].unpadded(), values[1 - i]
    if other.origin != "constant":
        raise NotInBlocks("its weights along the image are no constants")
    matrix = np.broadcast_to(tracer.evaluate(other), other.shape)
    taps = recognize(matrix if along == 0 else matrix.T)
    if taps is None:
        raise NotInBlocks("it mixes pixels by a matrix that is no resizing by a whole factor")
    pair: tuple[Taps | None, Taps | None]
    pair = (taps, None) if value.axes[axis] == "h" else (None, taps)
    value = _twice(tracer, value, pair) or resized(tracer, value, pair, "resize")
    order = [a for a in range(len(value.axes)) if a != axis]
    order = [*order, axis] if i == 0 else [axis, *order]
    shape = tuple(value.shape[a] for a in order)
    axes = tuple(value.axes[a] for a in order)
    return dataclasses.replace(value, shape=shape, axes=axes)


def _twice(tracer: Builder, value: Map, taps: tuple[Taps | None, Taps | None]) -> Map | None:
    """The rows' resizing with the columns' in one, where the node before is the other."""
    before = tracer.makers.get(value.number)
    if before is None or not isinstance(before.details, Resizing):
        return None
    own = before.details.taps
    if any(a is not None and b is not None for a, b in zip(own, taps, strict=True)):
        return None
    both = (own[0] or taps[0], own[1] or taps[1])
    source = before.operands[0]
    assert isinstance(source, Map)
    # The axes may have been exchanged in between.
    shape = tuple(
        {
            "h": source.side[0] * tracer.geometry.rows,
            "w": source.side[1] * tracer.geometry.columns,
        }.get(a, s)
        for s, a in zip(value.shape, value.axes, strict=True)
    )
    arranged = dataclasses.replace(source, shape=shape, axes=value.axes)
    if source.rest != arranged.rest:
        return None
    return resized(tracer, arranged, both, before.name)


def is_resizing(matrix: Float[np.ndarray, "i o"]) -> bool:
    """Whether outputs are means around their places, so that positions stay those of the image."""
    length, outputs = matrix.shape
    if not np.allclose(matrix.sum(0), 1, atol=1e-3) or matrix.min() < -0.3:
        return False
    centers = (np.arange(length) + 0.5)[:, None]
    places = (np.abs(matrix) * centers).sum(0) / np.abs(matrix).sum(0)
    wanted = (np.arange(outputs) + 0.5) * length / outputs
    return bool(np.abs(places - wanted).max() <= max(1.0, length / outputs))
