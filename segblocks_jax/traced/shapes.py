"""Rules of operations that move data: transposing, reshaping, repeating, slicing, padding, taking, reducing."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from segblocks_jax.traced.regroup import regrouped
from segblocks_jax.traced.resize import sampled
from segblocks_jax.traced.runtime import Runtime
from segblocks_jax.traced.trace import PLAIN_RULES, Tracer, rule
from segblocks_jax.traced.values import Map, NotInBlocks, Value, image_axes


@rule("transpose")
def transpose(tracer: Tracer, eqn: Any, values: list[Any]) -> Sequence[Value]:
    """Only axes that are none of the image's move."""
    value, order = values[0], eqn.params["permutation"]
    axes = tuple(value.axes[a] for a in order)
    moved = [value.pixel_axis(a) for a in order if value.axes[a] == "c"]
    shape = eqn.outvars[0].aval.shape
    if moved == sorted(moved):
        return [dataclasses.replace(value, shape=shape, axes=axes)]
    result = dataclasses.replace(value, number=tracer.number(), shape=shape, axes=axes)

    def run(runtime: Runtime, pixels: Array) -> Array:
        return pixels.transpose(0, *moved)

    return [tracer.mapped("transpose", run, (value,), result)]


@rule("squeeze")
def squeeze(tracer: Tracer, eqn: Any, values: list[Any]) -> Sequence[Value]:
    """Drops axes of size 1."""
    dropped = eqn.params["dimensions"]
    value = values[0]
    return _reshaped(
        tracer,
        value,
        eqn.outvars[0].aval.shape,
        tuple(a for i, a in enumerate(value.axes) if i not in dropped),
    )


def _reshaped(
    tracer: Tracer, value: Map, shape: tuple[int, ...], axes: tuple[str, ...]
) -> Sequence[Value]:
    if not {"h", "w"} <= set("".join(axes)):
        raise NotInBlocks("it drops an axis of the image")
    result = dataclasses.replace(value, number=tracer.number(), shape=shape, axes=axes)
    rest = result.rest
    return [tracer.mapped("reshape", lambda _, x: x.reshape(x.shape[0], *rest), (value,), result)]


@rule("reshape")
def reshape(tracer: Tracer, eqn: Any, values: list[Any]) -> Sequence[Value]:
    """Joins or parts axes; an axis of the image may give pixels to other axes and take them back."""
    value = values[0].unpadded()
    shape = tuple(eqn.params["new_sizes"])
    if eqn.params["dimensions"] is not None:
        raise NotInBlocks("it reads the array in another order")
    made = regrouped(value, shape, tracer.geometry)
    if made.run is None:
        return _reshaped(tracer, value, shape, made.axes)
    result = Map(tracer.number(), shape, value.dtype, made.axes, made.side)
    return [tracer.mapped("reshape", made.run, (value,), result)]


@rule("broadcast_in_dim")
def broadcast_in_dim(tracer: Tracer, eqn: Any, values: list[Any]) -> Sequence[Value]:
    """Repeats along new axes, or such of size 1."""
    if not isinstance(values[0], Map) or len(values) > 1:
        raise NotInBlocks("its sizes are not static")
    value, shape = values[0].unpadded(), tuple(eqn.params["shape"])
    places = eqn.params["broadcast_dimensions"]
    axes = ["c"] * len(shape)
    for own, place in enumerate(places):
        axes[place] = value.axes[own]
    if shape[0] == tracer.geometry.images == 1 and not any("n" in a for a in axes):
        axes[0] = "n"
    result = Map(tracer.number(), shape, value.dtype, tuple(axes), value.side)
    narrow = [1] * len(shape)
    for own, place in enumerate(places):
        narrow[place] = value.shape[own]
    before = [s for s, a in zip(narrow, axes, strict=True) if a == "c"]
    rest = result.rest

    def run(runtime: Runtime, pixels: Array) -> Array:
        pixels = pixels.reshape(pixels.shape[0], *before)
        return jnp.broadcast_to(pixels, (pixels.shape[0], *rest))

    return [tracer.mapped("broadcast_in_dim", run, (value,), result)]


@rule("broadcast_in_dim", table=PLAIN_RULES)
def plain_broadcast(tracer: Tracer, eqn: Any, values: list[Any]) -> Sequence[Value]:
    """Notes the repetition instead of making it."""
    if len(values) > 1:
        raise NotInBlocks("")
    value, aval = values[0], eqn.outvars[0].aval
    if 0 in aval.shape:
        raise NotInBlocks("")
    stored = [1] * len(aval.shape)
    for own, place in enumerate(eqn.params["broadcast_dimensions"]):
        stored[place] = value.stored[own]
    shape = tuple(stored)
    return [
        tracer.plain("reshape", lambda x: x.reshape(shape), (value,), aval, shape, params=shape)
    ]


@rule("reshape", "squeeze", table=PLAIN_RULES)
def plain_reshape(tracer: Tracer, eqn: Any, values: list[Any]) -> Sequence[Value]:
    """Reshapes what is stored, where only axes of size 1 come or go."""
    value, aval = values[0], eqn.outvars[0].aval
    kept = [(s, t) for s, t in zip(value.shape, value.stored, strict=True) if s > 1]
    if (
        0 in aval.shape
        or [s for s, _ in kept] != [s for s in aval.shape if s > 1]
        or (eqn.params.get("dimensions") and eqn.primitive.name == "reshape")
    ):
        raise NotInBlocks("")
    sizes = iter(kept)
    stored = tuple(next(sizes)[1] if s > 1 else s for s in aval.shape)
    return [
        tracer.plain("reshape", lambda x: x.reshape(stored), (value,), aval, stored, params=stored)
    ]


@rule("slice")
def slice_(tracer: Tracer, eqn: Any, values: list[Any]) -> Sequence[Value]:
    """Cuts other axes; of the image's takes every s-th row or column."""
    value = values[0].unpadded()
    starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or (1,) * len(starts)
    for axis in image_axes(value.axes):
        whole = (starts[axis], limits[axis], strides[axis]) == (0, value.shape[axis], 1)
        if not whole:
            picks = range(starts[axis], limits[axis], strides[axis])
            value = sampled(tracer, value, axis, picks)
    cuts = [
        slice(a, b, s)
        for a, b, s, label in zip(starts, limits, strides, value.axes, strict=True)
        if label == "c"
    ]
    if all(len(range(*c.indices(r))) == r for c, r in zip(cuts, value.rest, strict=True)):
        return [value]
    shape = eqn.outvars[0].aval.shape
    result = dataclasses.replace(value, number=tracer.number(), shape=shape)
    return [tracer.mapped("slice", lambda _, x: x[(slice(None), *cuts)], (value,), result)]


@rule("dynamic_slice")
def dynamic_slice(tracer: Tracer, eqn: Any, values: list[Any]) -> Sequence[Value]:
    """Cuts other axes than the image's, at places that the program computes."""
    if not isinstance(values[0], Map) or any(isinstance(v, Map) for v in values[1:]):
        raise NotInBlocks("it cuts at places that depend on pixels")
    value, sizes = values[0].unpadded(), eqn.params["slice_sizes"]
    if any(sizes[a] != value.shape[a] for a in image_axes(value.axes)):
        raise NotInBlocks("it crops the image")
    result = dataclasses.replace(value, number=tracer.number(), shape=tuple(sizes))
    kept = [i for i, a in enumerate(value.axes) if a == "c"]
    cut = [sizes[i] for i in kept]

    def run(runtime: Runtime, pixels: Array, *starts: Array) -> Array:
        own = [starts[i] for i in kept]
        first = jnp.zeros_like(own[0]) if own else 0
        return jax.lax.dynamic_slice(pixels, [first, *own], [pixels.shape[0], *cut])

    return [tracer.mapped("dynamic_slice", run, values, result)]


@rule("pad")
def pad(tracer: Tracer, eqn: Any, values: list[Any]) -> Sequence[Value]:
    """Pads other axes; the image's margins wait for the window operation that reads them."""
    if isinstance(values[1], Map) or not isinstance(values[0], Map):
        raise NotInBlocks("its padding depends on pixels")
    value: Map = values[0]
    config = [tuple(map(int, c)) for c in eqn.params["padding_config"]]
    spatial = {a: config[i] for i, a in enumerate(value.axes) if a in ("h", "w")}
    if any(any(config[i]) for i, a in enumerate(value.axes) if a not in ("h", "w", "c")):
        raise NotInBlocks("it pads the batch, or positions that are one axis")
    shape = eqn.outvars[0].aval.shape
    if any(any(c) for c in spatial.values()):
        if any(min(c[:2]) < 0 or c[2] for c in spatial.values()):
            raise NotInBlocks("it crops the image or spreads its pixels")
        if values[1].origin != "constant":
            raise NotInBlocks("its padding is no constant")
        outside = float(tracer.evaluate(values[1]).reshape(()))
        if any(map(any, value.margins)) and outside != value.outside:
            raise NotInBlocks("it pads twice, with different values")
        margins = tuple(
            (own[0] + spatial[a][0], own[1] + spatial[a][1])
            for own, a in zip(value.margins, "hw", strict=True)
        )
        sizes = tuple(
            s + sum(config[i][:2]) * (a in ("h", "w"))
            for i, (s, a) in enumerate(zip(value.shape, value.axes, strict=True))
        )
        value = dataclasses.replace(value, shape=sizes, margins=margins, outside=outside)  # type: ignore[arg-type]
    own: Any = [c for c, a in zip(config, value.axes, strict=True) if a == "c"]
    if not any(any(c) for c in own):
        return [value]
    value = value.unpadded()
    result = dataclasses.replace(value, number=tracer.number(), shape=shape)
    filling = tracer.full(values[1])

    def run(runtime: Runtime, pixels: Array, fill: Array) -> Array:
        return jax.lax.pad(pixels, fill, [(0, 0, 0), *own])

    return [tracer.mapped("pad", run, (value, filling), result)]


@rule("gather")
def gather(tracer: Tracer, eqn: Any, values: list[Any]) -> Sequence[Value]:
    """Takes entries along one axis, by indices that are constants."""
    value, indices = values
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if not isinstance(value, Map) or isinstance(indices, Map):
        raise NotInBlocks("it reads places that depend on pixels")
    value = value.unpadded()
    axis: int = numbers.start_index_map[0] if len(numbers.start_index_map) == 1 else -1
    simple = (
        axis >= 0
        and numbers.collapsed_slice_dims == (axis,)
        and not numbers.operand_batching_dims
        and len(indices.shape) == 2
        and all(
            s == (1 if i == axis else n)
            for i, (s, n) in enumerate(zip(sizes, value.shape, strict=True))
        )
        and tuple(numbers.offset_dims) == tuple(i for i in range(len(value.shape)) if i != axis)
    )
    if not simple or indices.origin != "constant":
        raise NotInBlocks("it takes pixels by their place")
    picks = np.broadcast_to(tracer.evaluate(indices), indices.shape)[:, 0]
    if picks.min(initial=0) < 0 or picks.max(initial=0) >= value.shape[axis]:
        raise NotInBlocks("it reads beyond its operand")
    if value.axes[axis] != "c":
        return [sampled(tracer, value, axis, picks)]
    place = value.pixel_axis(axis)
    result = dataclasses.replace(value, number=tracer.number(), shape=eqn.outvars[0].aval.shape)
    return [tracer.mapped("take", lambda _, x: jnp.take(x, picks, place), (value,), result)]
