"""Rules of operations that join and part arrays, and repeat them, along other axes than the image's."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from segblocks_jax.traced.pixels import aligned, along_rest, operand
from segblocks_jax.traced.runtime import Runtime
from segblocks_jax.traced.trace import Tracer, rule
from segblocks_jax.traced.values import Map, NotInBlocks, Value


@rule("concatenate")
def concatenate(tracer: Tracer, eqn: Any, values: list[Value]) -> Sequence[Value]:
    """Along an axis."""
    values, axes = aligned(tracer, values)
    first, aval = next(v for v in values if isinstance(v, Map)), eqn.outvars[0].aval
    (axis,) = along_rest(first, [eqn.params["dimension"]], "joins pieces")
    beside = [operand(tracer, v, axes, first.side, aval.shape) for v in values]
    sizes = [v.shape[eqn.params["dimension"]] for v in values]
    result = Map(tracer.number(), aval.shape, aval.dtype, axes, first.side)
    rest = result.rest

    def run(runtime: Runtime, *arrays: Array) -> Array:
        pixels = max(x.shape[0] for x in arrays)
        wide = []
        for x, size in zip(arrays, sizes, strict=True):
            shape = (pixels, *rest)
            wide.append(jnp.broadcast_to(x, (*shape[:axis], size, *shape[axis + 1 :])))
        return jnp.concatenate(wide, axis)

    return [tracer.mapped("concatenate", run, beside, result)]


@rule("stack")
def stack(tracer: Tracer, eqn: Any, values: list[Value]) -> Sequence[Value]:
    """Along a new axis."""
    values, axes = aligned(tracer, values)
    first, aval = next(v for v in values if isinstance(v, Map)), eqn.outvars[0].aval
    place = eqn.params["axis"]
    beside = [operand(tracer, v, axes, first.side, first.shape) for v in values]
    after = (*axes[:place], "c", *axes[place:])
    result = Map(tracer.number(), aval.shape, aval.dtype, after, first.side)
    rest, axis = first.rest, result.pixel_axis(place)

    def run(runtime: Runtime, *arrays: Array) -> Array:
        pixels = max(x.shape[0] for x in arrays)
        return jnp.stack([jnp.broadcast_to(x, (pixels, *rest)) for x in arrays], axis)

    return [tracer.mapped("stack", run, beside, result)]


@rule("unstack")
def unstack(tracer: Tracer, eqn: Any, values: list[Any]) -> Sequence[Value]:
    """The entries along an axis."""
    value, place = values[0].unpadded(), eqn.params["axis"]
    (axis,) = along_rest(value, [place], "takes apart what lies")
    axes = tuple(a for i, a in enumerate(value.axes) if i != place)
    made = []
    for i, out in enumerate(eqn.outvars):
        result = Map(tracer.number(), out.aval.shape, out.aval.dtype, axes, value.side)

        def run(runtime: Runtime, pixels: Array, i: int = i) -> Array:
            return lax.index_in_dim(pixels, i, axis, keepdims=False)

        made.append(tracer.mapped("unstack", run, (value,), result))
    return made


@rule("tile")
def tile(tracer: Tracer, eqn: Any, values: list[Any]) -> Sequence[Value]:
    """Repeats what lies along axes."""
    value, times = values[0].unpadded(), eqn.params["reps"]
    if any(n != 1 and a != "c" for n, a in zip(times, value.axes, strict=True)):
        raise NotInBlocks("it repeats the image")
    own = [n for n, a in zip(times, value.axes, strict=True) if a == "c"]
    aval = eqn.outvars[0].aval
    result = Map(tracer.number(), aval.shape, aval.dtype, value.axes, value.side)
    return [tracer.mapped("tile", lambda _, x: jnp.tile(x, (1, *own)), (value,), result)]
