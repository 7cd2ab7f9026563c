"""Rules of operations on single pixels: element by element, and along axes that are none of the image's."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from segblocks_jax.traced.builder import Builder
from segblocks_jax.traced.runtime import Runtime
from segblocks_jax.traced.trace import ELEMENTWISE, PLAIN_RULES, Tracer, rule
from segblocks_jax.traced.values import (
    Map,
    NotInBlocks,
    Plain,
    Value,
    broadcast_stored,
    image_axes,
    is_spread,
    same_places,
)

# fmt: off
ELEMENTWISE |= {
    "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh", "bessel_i0e",
    "bessel_i1e", "cbrt", "ceil", "clamp", "clz", "complex", "conj", "convert_element_type", "copy",
    "copy_p", "cos", "cosh", "digamma", "div", "eq", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1",
    "floor", "ge", "gt", "igamma", "igammac", "imag", "integer_pow", "is_finite", "le", "lgamma", "log",
    "log1p", "logistic", "lt", "max", "min", "mul", "mulhi", "ne", "neg", "nextafter", "not", "or",
    "polygamma", "population_count", "pow", "real", "reduce_precision", "regularized_incomplete_beta",
    "rem", "round", "rsqrt", "select_n", "shift_left", "shift_right_arithmetic", "shift_right_logical",
    "sign", "sin", "sinh", "sqrt", "square", "stop_gradient", "sub", "tan", "tanh", "xor", "zeta",
}
# fmt: on


def operand(
    tracer: Builder,
    value: Value,
    axes: tuple[str, ...],
    side: tuple[int, int],
    shape: Sequence[int],
) -> Value:
    """A value beside a map of these axes: the array of its `number` then broadcasts against the pixel list."""
    if isinstance(value, Map) or not value.shape:
        return value
    again = ("operand", value.number, axes, side, value.shape, tuple(shape))
    if again in tracer.converted:
        return tracer.converted[again]
    if is_spread(value, axes):
        sizes = [s if a == "c" else t for s, t, a in zip(value.shape, shape, axes, strict=True)]
        made: Value = tracer.splitted(dataclasses.replace(value, shape=tuple(sizes)), axes, side)
    else:
        made = _repeated(tracer, value, axes, side)
    tracer.converted[again] = made
    return made


def _repeated(tracer: Builder, value: Plain, axes: tuple[str, ...], side: tuple[int, int]) -> Value:
    """An array that is the same at all places of an image, as (1 or p, ...)."""
    images = [i for i in image_axes(axes) if "n" in axes[i]]
    many = bool(images) and value.stored[images[0]] > 1
    rest = tuple(s for s, a in zip(value.stored, axes, strict=True) if a == "c")
    if not many:
        aval = jax.ShapeDtypeStruct(value.shape, value.dtype)
        flat = (1, *rest)
        return tracer.plain(
            "reshape", lambda x: x.reshape(flat), (value,), aval, flat, params=(axes, flat)
        )
    first = images[0]

    def run(runtime: Runtime, x: Array) -> Array:
        each = jnp.moveaxis(x, first, 0)
        return runtime.per_pixel(each.reshape(each.shape[0], *rest), side)

    shape = tuple(
        s if a != "c" else t for s, a, t in zip(value.shape, axes, value.stored, strict=True)
    )
    return tracer.mapped(
        "broadcast", run, (value,), Map(tracer.number(), shape, value.dtype, axes, side)
    )


def aligned(tracer: Tracer, values: Sequence[Value]) -> tuple[list[Value], tuple[str, ...]]:
    """Values whose maps have the same axes, and these: an axis of one image is none of each pixel's."""
    axes = same_places([v.unpadded() for v in values if isinstance(v, Map)])
    made: list[Value] = []
    for value in values:
        if isinstance(value, Map) and value.axes != axes:
            own = dataclasses.replace(value, number=tracer.number(), axes=axes)
            rest = own.rest
            value = tracer.mapped(
                "reshape", lambda _, x, rest=rest: x.reshape(x.shape[0], *rest), (value,), own
            )
        made.append(value)
    return made, axes


@rule(*ELEMENTWISE)
def elementwise(tracer: Tracer, eqn: Any, values: list[Value]) -> Sequence[Value]:
    """Computes on the pixel list."""
    aval = eqn.outvars[0].aval
    shape = aval.shape
    values, axes = aligned(tracer, values)
    if len(axes) != len(shape):
        raise NotInBlocks("its operands have different numbers of axes")
    side = next(v.side for v in values if isinstance(v, Map))
    beside = [operand(tracer, v, axes, side, aval.shape) for v in values]
    result = Map(tracer.number(), shape, aval.dtype, axes, side)
    params = eqn.primitive.get_bind_params(eqn.params)

    def run(runtime: Runtime, *arrays: Array) -> Array:
        wide = jnp.broadcast_shapes(*(x.shape for x in arrays if x.ndim))
        same = [jnp.broadcast_to(x, wide) if x.ndim else x for x in arrays]
        return eqn.primitive.bind(*_scalars(eqn, same, wide), **params)

    tracer.mapped(eqn.primitive.name, run, beside, result, details=eqn.params)
    return [result]


def _scalars(eqn: Any, arrays: list[Array], shape: tuple[int, ...]) -> list[Array]:
    """Scalars stay where the primitive takes them."""
    if eqn.primitive.name in ("select_n", "clamp"):
        ends = (0,) if eqn.primitive.name == "select_n" else (0, 2)
        return [
            x if i in ends or x.ndim else jnp.broadcast_to(x, shape) for i, x in enumerate(arrays)
        ]
    return arrays


@rule(*ELEMENTWISE, table=PLAIN_RULES)
def plain_elementwise(tracer: Tracer, eqn: Any, values: list[Any]) -> Sequence[Value]:
    """Computes on what is stored, without repeating it."""
    aval = eqn.outvars[0].aval
    if any(v.shape and len(v.shape) != len(aval.shape) for v in values):
        raise NotInBlocks("")
    stored = broadcast_stored([v.stored for v in values])
    if math.prod(stored) == math.prod(aval.shape):
        raise NotInBlocks("")
    params = eqn.primitive.get_bind_params(eqn.params)

    def run(*arrays: Array) -> Array:
        same = [jnp.broadcast_to(x, stored) if x.ndim else x for x in arrays]
        return eqn.primitive.bind(*_scalars(eqn, same, stored), **params)

    name = eqn.primitive.name
    return [tracer.plain(name, run, values, aval, stored, params=eqn.params)]


def along_rest(value: Map, axes: Sequence[int], what: str) -> list[int]:
    """Axes of the pixel list for axes of the array; NotInBlocks if they are the image's."""
    if any(value.axes[a] != "c" for a in axes):
        raise NotInBlocks(f"it {what} along the image")
    return [value.pixel_axis(int(a)) for a in axes]


def remapped(
    tracer: Tracer, eqn: Any, value: Map, params: dict[str, Any], dropped: Sequence[int] = ()
) -> Sequence[Value]:
    """The primitive on the pixel list with other parameters."""
    axes = tuple(a for i, a in enumerate(value.axes) if i not in dropped)
    results = [
        Map(tracer.number(), v.aval.shape, v.aval.dtype, axes, value.side) for v in eqn.outvars
    ]
    given = eqn.primitive.get_bind_params({**eqn.params, **params})
    for i, result in enumerate(results):

        def run(runtime: Runtime, pixels: Array, i: int = i) -> Array:
            made = eqn.primitive.bind(pixels, **given)
            return made[i] if eqn.primitive.multiple_results else made

        tracer.mapped(eqn.primitive.name, run, (value,), result)
    return results


@rule("argmax", "argmin")
def arg_extreme(tracer: Tracer, eqn: Any, values: list[Any]) -> Sequence[Value]:
    """Along other axes than the image's."""
    value = values[0].unpadded()
    axes = along_rest(value, eqn.params["axes"], "compares")
    return remapped(tracer, eqn, value, {"axes": tuple(axes)}, eqn.params["axes"])


@rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
def cumulative(tracer: Tracer, eqn: Any, values: list[Any]) -> Sequence[Value]:
    """Along other axes than the image's."""
    value = values[0].unpadded()
    (axis,) = along_rest(value, [eqn.params["axis"]], "accumulates")
    return remapped(tracer, eqn, value, {"axis": axis})


@rule("rev")
def reverse(tracer: Tracer, eqn: Any, values: list[Any]) -> Sequence[Value]:
    """Along other axes than the image's."""
    value = values[0].unpadded()
    axes = along_rest(value, eqn.params["dimensions"], "turns")
    return remapped(tracer, eqn, value, {"dimensions": tuple(axes)})


@rule("split")
def split_channels(tracer: Tracer, eqn: Any, values: list[Any]) -> Sequence[Value]:
    """Along other axes than the image's."""
    value = values[0].unpadded()
    (axis,) = along_rest(value, [eqn.params["axis"]], "splits")
    return remapped(tracer, eqn, value, {"axis": axis})


@rule("sort")
def sort(tracer: Tracer, eqn: Any, values: list[Any]) -> Sequence[Value]:
    """Sorts one array along other axes than the image's."""
    if len(values) > 1:
        raise NotInBlocks("it sorts several arrays")
    value = values[0].unpadded()
    (axis,) = along_rest(value, [eqn.params["dimension"]], "sorts")
    return remapped(tracer, eqn, value, {"dimension": axis})


@rule("top_k")
def top_k(tracer: Tracer, eqn: Any, values: list[Any]) -> Sequence[Value]:
    """Along the last axis, if that is none of the image's."""
    value = values[0].unpadded()
    last = eqn.params.get("axis", -1) % len(value.shape)
    (axis,) = along_rest(value, [last], "sorts")
    return remapped(tracer, eqn, value, {"axis": axis} if "axis" in eqn.params else {})
