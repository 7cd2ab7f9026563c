"""Rules of windows: convolutions, also transposed ones, and maxima, minima and sums over windows."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from segblocks_jax.blocks import DualRes, block_conv
from segblocks_jax.ops.image_conv import image_conv
from segblocks_jax.traced.runtime import Runtime
from segblocks_jax.traced.shapes import per_image
from segblocks_jax.traced.trace import PLAIN_RULES, RULES, Tracer, multiply_adds, rule
from segblocks_jax.traced.values import Map, NotInBlocks, Plain, Value, check_halo

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Windows:
    """The details of a node that reads windows.

    Attributes:
        size, stride, dilation: of the window, (vertical, horizontal).
        before: pixels that the first window reads before the image.
        groups: of a convolution.
        kernel: number of the HWIO kernel of a convolution.
        up: a transposed convolution makes so many times as many rows and columns.
    """

    size: Pair
    stride: Pair
    dilation: Pair
    before: Pair
    groups: int = 1
    kernel: int | None = None
    up: Pair = (1, 1)

    @property
    def reach(self) -> Pair:
        """How far the last tap is from the first."""
        v, h = (d * (k - 1) for d, k in zip(self.dilation, self.size, strict=True))
        return v, h

    @property
    def halo(self) -> Pair:
        """Pixels around a block that are read."""
        v, h = (
            max(0, b, r - b - s + 1)
            for b, r, s in zip(self.before, self.reach, self.stride, strict=True)
        )
        return v, h

    @property
    def shift(self) -> Pair | None:
        """Of `block_conv` whose padding is half the reach; None where it has no such window."""
        found = []
        for reach, before, stride in zip(self.reach, self.before, self.stride, strict=True):
            padding = reach // 2
            shift = padding - before
            if not 0 <= shift < stride - (reach - 2 * padding):
                return None
            found.append(shift)
        return found[0], found[1]

    @property
    def plain(self) -> bool:
        """Whether `block_conv` has it."""
        equal = self.stride[0] == self.stride[1] and self.dilation[0] == self.dilation[1]
        return equal and self.shift is not None and self.stride[0] >= 1


def check_windows(
    tracer: Tracer, value: Map, windows: Windows, sizes: Sequence[tuple[int, int]]
) -> Pair:
    """The sides of blocks behind the windows; `sizes` are (inputs, outputs) along each axis."""
    factor = tracer.geometry.low_factor
    sides = []
    for side, stride, (length, outputs) in zip(value.side, windows.stride, sizes, strict=True):
        if outputs * stride != length:
            raise NotInBlocks(
                f"its {outputs} windows don't cover the {length} pixels evenly; pad it by half of its reach"
            )
        if side % (stride * factor):
            raise NotInBlocks(
                f"its stride of {stride} doesn't divide the {side // factor} pixels of low blocks here"
            )
        sides.append(side // stride)
    return sides[0], sides[1]


def windows_run(
    windows: Windows,
    side: Pair,
    outside: float | str,
    function: Callable[..., Array],
) -> Callable[..., Array]:
    """Runs a function of padded images (m, h, w, c) without padding on the parts."""
    halo = windows.halo

    def run(runtime: Runtime, pixels: Array, *beside: Array) -> Array:
        parts = runtime.pad(pixels, side, halo, outside)
        made = []
        for part, own in zip(parts, (side, runtime.low(side)), strict=True):
            for axis in (0, 1):
                start = halo[axis] - windows.before[axis]
                stride = windows.stride[axis]
                length = own[axis] - stride + windows.reach[axis] + 1
                part = lax.slice_in_dim(part, start, start + length, axis=axis + 1)
            made.append(function(part, *beside))
        return runtime.join(*made)

    return run


@rule("conv_general_dilated")
def convolution(tracer: Tracer, eqn: Any, values: list[Value]) -> Sequence[Value]:
    """As `block_conv` where it has the window, else by XLA on padded blocks."""
    value, kernel = values
    if not isinstance(value, Map) or isinstance(kernel, Map):
        raise NotInBlocks("its kernel is made of pixels")
    params, aval = eqn.params, eqn.outvars[0].aval
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


def convolved(
    tracer: Tracer,
    value: Map,
    kernel: Plain,
    windows: Windows,
    result: Map,
    macs: int,
    **changes: Any,
) -> Map:
    """Appends a convolution."""
    own, options = value.side, tracer.options
    windows = dataclasses.replace(windows, kernel=kernel.number)
    stride, dilation, groups, shift = (
        windows.stride,
        windows.dilation,
        windows.groups,
        windows.shift,
    )
    dtype = result.dtype
    flat = len(result.rest)
    if windows.plain:
        padding = windows.reach[0] // 2, windows.reach[1] // 2
        assert shift is not None

        def run(runtime: Runtime, pixels: Array, weights: Array) -> Array:
            pixels = pixels.reshape(pixels.shape[0], -1)
            given: Any = {"dilation": dilation[0], "shift": shift}
            if runtime.whole:
                image = pixels.reshape(runtime.grid.num_high, *own, -1)
                out = image_conv(image, weights, stride[0], padding, groups, **given)
                out = out.reshape(-1, out.shape[-1])
            else:
                given["padding_mode"] = options.padding
                blocks = DualRes(pixels, runtime.grid)
                out = block_conv(blocks, weights, stride[0], padding, groups, **given).pixels
            return out.astype(dtype).reshape(out.shape[0], *(1,) * (flat - 1), out.shape[1])

        if own[0] != own[1] and (tracer.geometry.rows, tracer.geometry.columns) != (1, 1):
            run = _by_xla(windows, own, dtype)
    else:
        run = _by_xla(windows, own, dtype)
    about: Any = {"how": "blocks", "details": windows, "macs": macs} | changes
    return tracer.mapped("conv_general_dilated", run, (value, kernel), result, **about)


def _by_xla(windows: Windows, side: Pair, dtype: Any) -> Callable[..., Array]:
    def convolve(part: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(
            part,
            kernel,
            windows.stride,
            "VALID",
            rhs_dilation=windows.dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=windows.groups,
        ).astype(dtype)

    return windows_run(windows, side, 0.0, convolve)


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
    body = eqn.params["jaxpr"].eqns if len(values) == 2 else ()
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
