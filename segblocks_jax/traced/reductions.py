"""Rules of sums, maxima and the like, along other axes than the image's and over all of it."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from segblocks_jax.traced.pixels import along_rest, remapped
from segblocks_jax.traced.runtime import Runtime
from segblocks_jax.traced.trace import Tracer, rule
from segblocks_jax.traced.values import Map, NotInBlocks, Plain, Value

REDUCTIONS: dict[str, Any] = {
    "reduce_sum": jnp.sum,
    "reduce_max": jnp.max,
    "reduce_min": jnp.min,
    "reduce_and": jnp.all,
    "reduce_or": jnp.any,
    "reduce_prod": jnp.prod,
}


@rule(*REDUCTIONS)
def reduce(tracer: Tracer, eqn: Any, values: list[Any]) -> Sequence[Value]:
    """Along other axes; along the image's as a whole, see `per_image`."""
    value, axes = values[0].unpadded(), eqn.params["axes"]
    inner = [a for a in axes if value.axes[a] == "c"]
    outer = [a for a in axes if value.axes[a] != "c"]
    name = eqn.primitive.name
    if not outer:
        own = along_rest(value, inner, "reduces")
        return remapped(tracer, eqn, value, {"axes": tuple(own)}, axes)
    labels = "".join(value.axes[a] for a in outer)
    if not {"h", "w"} <= set(labels):
        raise NotInBlocks("it reduces rows or columns alone")
    if name == "reduce_prod":
        raise NotInBlocks("it multiplies all pixels")
    aval = eqn.outvars[0].aval
    kept = [a for i, a in enumerate(value.axes) if i not in axes]
    return [
        per_image(
            tracer, name, value, [value.pixel_axis(a) for a in inner], "n" in labels, kept, aval
        )
    ]


def per_image(
    tracer: Tracer,
    name: str,
    value: Map,
    inner: Sequence[int],
    batch: bool,
    kept: Sequence[str],
    aval: Any,
) -> Plain:
    """A sum, maximum or minimum over all pixels of each image, or of the batch.

    Sums count a low block's pixel as often as it has pixels of the image. Those over the whole batch, the statistics
    of batch norm, are `BlockOptions.batch_norm`'s: of the mean of all pixels of the list, times the number of the
    image's.
    """
    side, geometry, options = value.side, tracer.geometry, tracer.options
    function = REDUCTIONS[name]
    joint = name == "reduce_sum" and batch and jnp.issubdtype(value.dtype, jnp.inexact)
    if joint and options.batch_norm != "joint":
        raise NotInBlocks(f"batch_norm is {options.batch_norm!r}, and only 'joint' is known here")
    total = geometry.images * geometry.rows * side[0] * geometry.columns * side[1]
    first = [i for i, a in enumerate(kept) if a == "n"]
    equal = options.image_statistics == "pixels" and name == "reduce_sum"

    def run(runtime: Runtime, pixels: Array) -> Sequence[Array]:
        if inner:
            pixels = function(pixels, axis=tuple(inner))
        if joint:
            return (pixels.sum(0) * (total / max(pixels.shape[0], 1)),)
        grid = runtime.grid
        parts = [
            function(part, axis=(1, 2)) for part in runtime.parts(pixels, side) if part.shape[0]
        ]
        if name == "reduce_sum" and grid.num_low and not equal:
            parts[-1] = parts[-1] * grid.low_factor**2
        cells = jnp.concatenate(parts)[grid.slots]
        each = function(cells, axis=(1, 2))
        if equal:
            each = each * _share(runtime, side, each)
        if batch:
            return (function(each, axis=0),)
        if not first:
            return (each[0],)
        # Of an array that is the same for all images.
        return (jnp.moveaxis(each[: aval.shape[first[0]]], 0, first[0]),)

    return tracer.reduced(name, run, value, aval)


def _share(runtime: Runtime, side: tuple[int, int], like: Array) -> Array:
    """For each image, its pixels over those that its blocks have."""
    _, rows, columns = runtime.grid.mask.shape
    low = side[0] * side[1] // runtime.grid.low_factor**2
    own = jnp.where(runtime.grid.mask, side[0] * side[1], low).sum((1, 2))
    share = rows * columns * side[0] * side[1] / own
    return share.astype(like.dtype).reshape(-1, *(1,) * (like.ndim - 1))
