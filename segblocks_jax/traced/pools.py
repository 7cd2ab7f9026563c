"""Rules of maxima, minima and sums over windows; windows of what is not in blocks yet."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
from jaxtyping import Array

from segblocks_jax.traced.reductions import per_image
from segblocks_jax.traced.runtime import Runtime
from segblocks_jax.traced.trace import PLAIN_RULES, RULES, Tracer, rule
from segblocks_jax.traced.values import Map, NotInBlocks, Plain, Value, check_halo
from segblocks_jax.traced.windows import (
    Windows,
    check_windows,
    windows_run,
)

_OUTSIDE = {"reduce_window_max": -math.inf, "reduce_window_min": math.inf, "reduce_window_sum": 0.0}


_NAMES = {"add": "reduce_window_sum", "max": "reduce_window_max", "min": "reduce_window_min"}


_FUNCTIONS: dict[str, Any] = {
    "reduce_window_max": lax.max,
    "reduce_window_min": lax.min,
    "reduce_window_sum": lax.add,
}


_WHOLE = {
    "reduce_window_max": "reduce_max",
    "reduce_window_min": "reduce_min",
    "reduce_window_sum": "reduce_sum",
}


@rule(*_OUTSIDE)
def reduce_window(tracer: Tracer, eqn: Any, values: list[Any]) -> Sequence[Value]:
    """Maxima, minima or sums over windows; a window over the whole image is a function of it."""
    return _reduced(tracer, eqn, values, eqn.primitive.name)


@rule("reduce_window")
def any_window(tracer: Tracer, eqn: Any, values: list[Any]) -> Sequence[Value]:
    """The same, where JAX did not see what it is."""
    body: Any = eqn.params["jaxpr"].eqns if len(values) == 2 else ()
    name = _NAMES.get(body[0].primitive.name, "") if len(body) == 1 else ""
    first = values[-1]
    known = isinstance(first, Plain) and first.origin == "constant"
    if name not in _OUTSIDE or not known or tracer.evaluate(first).item() != _OUTSIDE[name]:
        raise NotInBlocks("its windows have a function of their own")
    return _reduced(tracer, eqn, values, name)


def _reduced(tracer: Tracer, eqn: Any, values: list[Any], name: str) -> Sequence[Value]:
    value, params, aval = values[0], eqn.params, eqn.outvars[0].aval
    spatial = [i for i, a in enumerate(value.axes) if a in ("h", "w")]
    if len(spatial) != 2 or any(b != 1 for b in params["base_dilation"]):
        raise NotInBlocks("its windows spread over other axes, or over pixels set apart")
    one = ("window_dimensions", "window_strides", "window_dilation")
    others = [i for i in range(len(value.axes)) if i not in spatial]
    if any(params[k][i] != 1 for k in one for i in others) or any(
        any(params["padding"][i]) for i in others
    ):
        raise NotInBlocks("its windows spread over other axes than rows and columns")
    y, x = sorted(spatial, key=lambda i: value.axes[i])
    outside = _OUTSIDE[name]
    if any(map(any, value.margins)) and value.outside != outside:
        raise NotInBlocks("the image is padded by other values than the windows' own")
    lengths = (tracer.geometry.rows * value.side[0], tracer.geometry.columns * value.side[1])
    padding = [
        (int(params["padding"][i][0]) + m[0], int(params["padding"][i][1]) + m[1])
        for i, m in zip((y, x), value.margins, strict=True)
    ]
    size = params["window_dimensions"][y], params["window_dimensions"][x]
    own = dataclasses.replace(value, margins=((0, 0), (0, 0)))
    if size == lengths and not any(map(any, padding)):
        kept = ["n" if a == "n" else "c" for a in value.axes if a not in ("h", "w")]
        flat = tuple(s for i, s in enumerate(aval.shape) if i not in spatial)
        total = per_image(
            tracer, _WHOLE[name], own, [], False, kept, jax.ShapeDtypeStruct(flat, aval.dtype)
        )
        shape = tuple(aval.shape)
        return [tracer.plain("reshape", lambda a: a.reshape(shape), (total,), aval)]
    windows = Windows(
        size,
        (params["window_strides"][y], params["window_strides"][x]),
        (params["window_dilation"][y], params["window_dilation"][x]),
        (padding[0][0], padding[1][0]),
    )
    sizes = list(zip(lengths, (aval.shape[y], aval.shape[x]), strict=True))
    side = check_windows(tracer, own, windows, sizes)
    if outside:
        check_halo(tracer.geometry, own.side, windows.halo)
    result = Map(tracer.number(), tuple(aval.shape), aval.dtype, value.axes, side)
    rest = result.rest
    function = _FUNCTIONS[name]

    def pool(part: Array) -> Array:
        return _pooled(part, windows, function)

    run = windows_run(windows, own.side, outside, pool)

    def shaped(runtime: Runtime, pixels: Array) -> Array:
        return run(runtime, pixels).reshape(-1, *rest)

    return [tracer.mapped(name, shaped, (own,), result, how="blocks", details=windows)]


def _pooled(part: Array, windows: Windows, function: Any) -> Array:
    """A reduction over windows, one axis after the other, by shifted maps."""
    # The gradient of XLA's window reduction is thirty times slower on a CPU than its value.
    for axis in (0, 1):
        stride, dilation = windows.stride[axis], windows.dilation[axis]
        last = part.shape[axis + 1] - windows.reach[axis]
        shifted = [
            lax.slice_in_dim(part, i * dilation, i * dilation + last, stride, axis + 1)
            for i in range(windows.size[axis])
        ]
        total = shifted[0]
        for one in shifted[1:]:
            total = function(total, one)
        part = total
    return part


@rule("conv_general_dilated", "reduce_window", *_OUTSIDE, table=PLAIN_RULES)
def of_image(tracer: Tracer, eqn: Any, values: list[Any]) -> Sequence[Value]:
    """In blocks again where the array is an image's and blocks fit; of equal pixels, such as counts, too."""
    value = values[0]
    if eqn.primitive.name == "conv_general_dilated":
        spec = eqn.params["dimension_numbers"].lhs_spec
        axes = ["c"] * len(spec)
        for label, axis in zip("nchw", spec, strict=False):
            axes[axis] = label
    else:
        axes = ["n", "h", "w", "c"]
        dims = eqn.params["window_dimensions"]
        if len(dims) == 4 and dims[3] != 1:
            axes = ["n", "c", "h", "w"]
    if len(axes) != 4:
        raise NotInBlocks("")
    made = tracer.as_map(value, tuple(axes))
    if made is None:
        made = tracer.constant_map(value, tuple(axes))
    if made is None:
        raise NotInBlocks("")
    return RULES[eqn.primitive.name](tracer, eqn, [made, *values[1:]])
