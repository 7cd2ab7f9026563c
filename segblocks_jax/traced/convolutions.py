"""Rules of convolutions, also transposed ones."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from segblocks_jax.traced.operations import multiply_adds
from segblocks_jax.traced.runtime import Runtime
from segblocks_jax.traced.trace import Tracer, rule
from segblocks_jax.traced.values import Map, NotInBlocks, Plain, Value
from segblocks_jax.traced.windows import (
    Pair,
    Windows,
    check_windows,
    convolved,
)


@rule("conv_general_dilated")
def convolution(tracer: Tracer, eqn: Any, values: list[Value]) -> Sequence[Value]:
    """As `block_conv` where it has the window, else by XLA on padded blocks."""
    value, kernel = values
    if not isinstance(value, Map) or isinstance(kernel, Map):
        raise NotInBlocks("its kernel is made of pixels")
    params, aval = eqn.params, eqn.outvars[0].aval
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise NotInBlocks(f"its pixels are {value.dtype}")
    spec, out_spec = params["dimension_numbers"].lhs_spec, params["dimension_numbers"].out_spec
    labels = [value.axes[a] for a in spec]
    if (
        len(spec) != 4
        or sorted(labels[2:]) != ["h", "w"]
        or labels[1] != "c"
        or labels[0] not in "nc"
    ):
        raise NotInBlocks("it is no convolution over rows and columns")
    if params["batch_group_count"] != 1:
        raise NotInBlocks("it has groups of images")
    turned = labels[2] == "w"

    def both(pair: Any) -> Any:
        return tuple(pair[::-1] if turned else pair)

    if any(map(any, value.margins)) and value.outside != 0:
        raise NotInBlocks("the image is padded by other values than 0")
    padding = [
        (int(p[0]) + m[0], int(p[1]) + m[1])
        for p, m in zip(both(params["padding"]), value.margins, strict=True)
    ]
    lhs_dilation = both(params["lhs_dilation"])
    if labels[0] == "c" and value.shape[spec[0]] > 1:
        raise NotInBlocks("it runs over several axes at once")
    rhs = params["dimension_numbers"].rhs_spec
    order = (rhs[3], rhs[2], rhs[1], rhs[0]) if turned else (rhs[2], rhs[3], rhs[1], rhs[0])
    full = tracer.full(kernel)
    shape = tuple(kernel.shape[a] for a in order)
    hwio = tracer.plain(
        "transpose",
        lambda k: k.transpose(order),
        (full,),
        jax.ShapeDtypeStruct(shape, kernel.dtype),
        params=order,
    )
    size = shape[0], shape[1]
    groups = params["feature_group_count"]
    own = dataclasses.replace(value, margins=((0, 0), (0, 0)))
    outs = dict(zip([labels[2], labels[3]], [aval.shape[a] for a in out_spec[2:]], strict=True))
    axes = ["c"] * 4
    for a, b in zip(spec, out_spec, strict=True):
        axes[b] = value.axes[a]
    lengths = (tracer.geometry.rows * value.side[0], tracer.geometry.columns * value.side[1])
    sizes = list(zip(lengths, (outs["h"], outs["w"]), strict=True))
    macs = multiply_adds(eqn, values)
    windows = Windows(
        size,
        both(params["window_strides"]),
        both(params["rhs_dilation"]),
        (padding[0][0], padding[1][0]),
        groups,
    )
    if lhs_dilation != (1, 1):
        return [_transposed(tracer, own, hwio, windows, lhs_dilation, sizes, axes, aval, macs)]
    side = check_windows(tracer, own, windows, sizes)
    result = Map(tracer.number(), aval.shape, aval.dtype, tuple(axes), side)
    return [convolved(tracer, own, hwio, windows, result, macs)]


def _transposed(
    tracer: Tracer,
    value: Map,
    kernel: Plain,
    windows: Windows,
    up: Pair,
    sizes: Sequence[tuple[int, int]],
    axes: Sequence[str],
    aval: Any,
    macs: int,
) -> Map:
    """A convolution of pixels spread apart: for each place between them one of the pixels, then interleaved."""
    if windows.stride != (1, 1) or windows.dilation != (1, 1):
        raise NotInBlocks("it has a stride or dilation besides that of its input")
    for (length, outputs), factor in zip(sizes, up, strict=True):
        if outputs != length * factor:
            raise NotInBlocks(f"it makes {outputs} of {length} pixels, {factor} of each expected")
    kh, kw, channels, features = kernel.shape
    plans = [
        _phases(k, before, factor)
        for k, before, factor in zip((kh, kw), windows.before, up, strict=True)
    ]
    (first_y, taps_y), (first_x, taps_x) = plans
    shape = (len(taps_y[0]), len(taps_x[0]), channels, up[0] * up[1] * features)
    groups = windows.groups

    def spread(weights: Array) -> Array:
        zero = jnp.zeros((1, *weights.shape[1:]), weights.dtype)
        rows = jnp.concatenate([weights, zero])[np.array(taps_y)]  # (up, taps, kw, c, k)
        zero = jnp.zeros((*rows.shape[:2], 1, *rows.shape[3:]), rows.dtype)
        both = jnp.concatenate([rows, zero], 2)[
            :, :, np.array(taps_x)
        ]  # (up, taps, up, taps, c, k)
        both = both.reshape(*both.shape[:5], groups, features // groups)
        # Channels of a group stay together: (taps, taps, c, group, up, up, k / group).
        return both.transpose(1, 3, 4, 5, 0, 2, 6).reshape(shape)

    phases = tracer.plain(
        "spread",
        spread,
        (kernel,),
        jax.ShapeDtypeStruct(shape, kernel.dtype),
        params=(up, windows.before, groups),
    )
    own = Windows((shape[0], shape[1]), (1, 1), (1, 1), (-first_y, -first_x), groups, up=up)
    side = value.side
    wide = Map(
        tracer.number(),
        (*(tracer.geometry.images, *(s for s, _ in sizes)), shape[3]),
        aval.dtype,
        ("n", "h", "w", "c"),
        side,
    )
    made = convolved(tracer, value, phases, own, wide, macs)
    after = side[0] * up[0], side[1] * up[1]
    result = Map(tracer.number(), aval.shape, aval.dtype, tuple(axes), after)
    rest = result.rest

    def interleave(runtime: Runtime, pixels: Array) -> Array:
        parts = []
        for part in runtime.parts(pixels, side):
            m, h, w, _ = part.shape
            apart = part.reshape(m, h, w, groups, *up, features // groups)
            apart = apart.transpose(0, 1, 4, 2, 5, 3, 6)
            parts.append(apart.reshape(m, h * up[0], w * up[1], features))
        return runtime.join(*parts).reshape(-1, *rest)

    return tracer.mapped("interleave", interleave, (made,), result)


def _phases(taps: int, before: int, up: int) -> tuple[int, list[list[int]]]:
    """The first place that is read, and for each output between two pixels the tap at every place; `taps`: none."""
    places = [
        {(k + t - before) // up: t for t in range(taps) if (k + t - before) % up == 0}
        for k in range(up)
    ]
    every = [place for own in places for place in own]
    first, last = min(every), max(every)
    first, last = min(first, -last, 0), max(last, -first, 0)
    return first, [[own.get(place, taps) for place in range(first, last + 1)] for own in places]
