"""Resizing by whole factors, recognized by its weights: each output reads the same taps around its place."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from segblocks_jax.traced.builder import Builder
from segblocks_jax.traced.runtime import Runtime
from segblocks_jax.traced.taps import Taps, recognize
from segblocks_jax.traced.values import Map, NotInBlocks, Plain, check_halo


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
    if len(picks) < min(2, value.shape[axis]):
        raise NotInBlocks("it crops the image to a line, or to nothing")
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
    if before is None or not isinstance(before.details, Resizing) or before not in tracer.nodes:
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
