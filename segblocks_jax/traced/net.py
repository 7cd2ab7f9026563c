"""in_blocks: any network of JAX in blocks, unchanged; its program is traced, and each operation runs in blocks."""

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from segblocks_jax.blocks import DualRes
from segblocks_jax.errors import InputError
from segblocks_jax.nn.block_size import Probe
from segblocks_jax.nn.regions import BlockOptions
from segblocks_jax.nn.scope import full_image_region, is_counting, record, scope
from segblocks_jax.traced.names import classes_of, named
from segblocks_jax.traced.plan import Plan, execute
from segblocks_jax.traced.runtime import Runtime
from segblocks_jax.traced.trace import Tracer
from segblocks_jax.traced.values import Geometry, Map, Plain, Value

_AXES = ("n", "h", "w", "c")
_SIDE = 1024  # Of the image on which windows are looked for.
_SIDES = (128, 64, 32)  # Of blocks that operations are counted for.


class WholeImageWarning(UserWarning):
    """An operation of a network runs on the whole image, since it can't run in blocks."""


@dataclasses.dataclass(frozen=True)
class _Structure:
    """What a pytree holds besides arrays."""

    tree: Any
    others: tuple[Any, ...]


class InBlocks(nnx.Module):
    """A network of any library, which runs on images as it is and on blocks; see `in_blocks`.

    Attributes:
        net: the network, if it is a module of Flax NNX.
        weights: its arrays, if it is another pytree.
        semantics: how it runs in blocks.
        whole_image: names of parts that run on the whole image.
        strict: whether anything else there is an error.
        num_classes, output_stride: of a network for segmentation.
    """

    def __init__(
        self,
        net: Callable[..., Any],
        options: BlockOptions | None = None,
        *,
        whole_image: Collection[str] | None = None,
        strict: bool = False,
    ) -> None:
        """See `in_blocks`."""
        own = getattr(net, "semantics", None)
        default = own if isinstance(own, BlockOptions) else BlockOptions()
        self.semantics = options or default
        named = getattr(net, "whole_image", ()) if whole_image is None else whole_image
        self.whole_image = tuple(sorted(named))
        self.strict = strict
        self.num_classes = getattr(net, "num_classes", 0)
        self.output_stride = getattr(net, "output_stride", 1)
        if isinstance(net, nnx.Module):
            self.net, self.weights, self.structure = net, None, None
            return
        self.net: Any = None
        leaves, tree = jax.tree.flatten(net)
        arrays = [isinstance(x, jax.Array | np.ndarray) for x in leaves]
        others = tuple(None if a else x for x, a in zip(leaves, arrays, strict=True))
        kinds = [x for x, a in zip(leaves, arrays, strict=True) if a]
        self.weights = nnx.List([_variable(x) for x in kinds])
        self.structure = _Structure(tree, others)

    def __call__(self, x: Any) -> Any:
        """An image (n, h, w, c) -> what the network gives; blocks of it -> its maps in blocks.

        Raises:
            InputError: `strict`, and something would run on the whole image.
        """
        if isinstance(x, Probe):
            return probed(self, x)
        function, leaves = self.functional()
        if not isinstance(x, DualRes):
            if is_counting():
                count(self, x)
            out, after = function(leaves, x)
            self.update(leaves, after)
            return out
        grid = x.grid
        n, rows, columns = grid.mask.shape
        side = x.block_size
        geometry = Geometry(n, rows, columns, (side, side), grid.low_factor)
        traced = self.plan(geometry, x.pixels.shape[1], x.pixels.dtype)
        report_warnings(traced.plan, self.strict)
        runtime = Runtime(grid, self.semantics)
        results = traced.run(runtime, leaves, x.pixels)
        out, after = jax.tree.unflatten(traced.tree, results)
        self.update(leaves, after)
        return out

    def functional(self) -> tuple[Callable[..., Any], list[Any]]:
        """The network as ``function(leaves, image) -> (result, leaves)``, and its arrays."""
        if self.net is not None:
            graph, state = nnx.split(self.net)
            leaves, tree = jax.tree.flatten(state)
            return functools.partial(_call_module, graph, tree), leaves
        given = [x[...] for x in self.weights]
        return functools.partial(_call_pytree, self.structure), given

    def update(self, before: Sequence[Any], after: Sequence[Any]) -> None:
        """Takes over running statistics and whatever else a call changed."""
        if self.net is None or all(a is b for a, b in zip(before, after, strict=True)):
            return
        _, state = nnx.split(self.net)
        nnx.update(self.net, jax.tree.unflatten(jax.tree.structure(state), list(after)))

    def plan(self, geometry: Geometry, channels: int, dtype: Any) -> "Traced":
        """What runs for images of a geometry."""
        function, leaves = self.functional()
        shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)
        image = jax.ShapeDtypeStruct((geometry.images, *geometry.size, channels), dtype)
        return traced_plan(
            function,
            shapes,
            image,
            geometry,
            self.semantics,
            self.whole_image,
            classes_of(self.net),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Traced:
    """A plan and the structure of its results."""

    plan: Plan
    tree: Any

    def run(self, runtime: Runtime, leaves: Sequence[Array], pixels: Array) -> list[Any]:
        """The results of the function: blocks, and arrays where they are no maps."""
        values: dict[int, Any] = {i: jnp.asarray(x) for i, x in self.plan.constants.items()}
        for value, array in zip(self.plan.arguments, (*leaves, pixels), strict=True):
            values[value.number] = array
        execute(self.plan.nodes, runtime, values)
        return [_result(runtime, v, values) for v in self.plan.results]


def _result(runtime: Runtime, value: Value, values: dict[int, Any]) -> Any:
    array = values[value.number]
    if isinstance(value, Map):
        return DualRes(array, runtime.grid)
    return array if value.stored == value.shape else jnp.broadcast_to(array, value.shape)


def traced_plan(
    function: Callable[..., Any],
    leaves: Sequence[Any],
    image: Any,
    geometry: Geometry,
    options: BlockOptions,
    whole_image: Collection[str] = (),
    classes: Sequence[type] = (),
) -> Traced:
    """Traces ``function(leaves, image)`` and plans it."""
    with named(classes):
        jaxpr, shape = jax.make_jaxpr(function, return_shape=True)(list(leaves), image)
    tracer = Tracer(geometry, options, whole_image)
    weights: list[Value] = [tracer.weights(x, f"weights {i}") for i, x in enumerate(leaves)]
    start = Map(tracer.number(), image.shape, image.dtype, _AXES, geometry.side)
    arguments: list[Value] = [*weights, start]
    results = tracer.jaxpr(jaxpr.jaxpr, tracer.captured(jaxpr.consts), arguments)
    out_leaves = len(jax.tree.leaves(shape[0]))
    final = [_final(tracer, v) if i < out_leaves else v for i, v in enumerate(results)]
    plan = Plan(
        geometry,
        _needed(tracer.nodes, final),
        tuple(arguments),
        tuple(final),
        tracer.constants,
        tuple(tracer.warnings),
    )
    return Traced(plan, jax.tree.structure(shape))


def _final(tracer: Tracer, value: Value) -> Value:
    """A result: a map of (n, h, w, c), or an array."""
    if isinstance(value, Plain):
        return tracer.as_map(value) or value
    if any(map(any, value.margins)):
        return tracer.combined(value)
    if value.side[0] != value.side[1]:
        tracer.warn("the result", f"its blocks have {value.side} pixels, which are no squares")
        return tracer.combined(value)
    axes = tuple(value.axes)
    if axes != _AXES:
        raise InputError(
            f"in_blocks: a result has the axes ({', '.join(axes)}) of images, rows, columns and others; blocks are"
            " (n, h, w, c): transpose it, or give it one axis of channels behind the image's"
        )
    return value


def _needed(nodes: Sequence[Any], results: Sequence[Value]) -> tuple[Any, ...]:
    """The nodes that results depend on."""
    wanted, kept = {v.number for v in results}, []
    for node in reversed(nodes):
        if wanted & set(node.outputs):
            kept.append(node)
            wanted.update(node.inputs)
    return tuple(kept[::-1])


def report_warnings(plan: Plan, strict: bool) -> None:
    """Warns of what runs on the whole image; an InputError if `strict`."""
    if strict and plan.warnings:
        raise InputError(
            "in_blocks: strict, and " + "; ".join(plan.warnings) + ". Change it, name its part in"
            " `whole_image`, or leave strict away"
        )
    for text in plan.warnings:
        warnings.warn(text, WholeImageWarning, stacklevel=3)


def _call_module(graph: Any, tree: Any, leaves: Sequence[Any], image: Any) -> Any:
    net = nnx.merge(graph, jax.tree.unflatten(tree, list(leaves)))
    with named.within(net):
        out = net(image)
    return out, jax.tree.leaves(nnx.split(net)[1])


def _call_pytree(structure: _Structure, leaves: Sequence[Any], image: Any) -> Any:
    given = iter(leaves)
    whole = [x if x is not None else next(given, None) for x in structure.others]
    return jax.tree.unflatten(structure.tree, whole)(image), list(leaves)


def _variable(array: Any) -> nnx.Variable:
    array = jnp.asarray(array)
    kind = nnx.Param if jnp.issubdtype(array.dtype, jnp.inexact) else nnx.Variable
    return kind(array)


def probed(net: InBlocks, probe: Probe) -> Probe:
    """The probe behind a network, with what its windows move by."""
    side = probe.side
    for node in net.plan(Geometry(1, 1, 1, (_SIDE, _SIDE), 1), 3, np.dtype("float32")).plan.nodes:
        maps = [x for x in (*node.operands[:1], *node.results[:1]) if isinstance(x, Map)]
        if len(maps) < 2:
            continue
        before, after = (x.side[0] for x in maps)
        if node.how == "blocks" or before != after:
            at = dataclasses.replace(probe, side=probe.side * before / _SIDE)
            side = at.through(max(1, before // after), max(1, after // before)).side
    return dataclasses.replace(probe, side=side)


def count(net: InBlocks, image: Any) -> None:
    """Notes the multiply-adds of a network: of its parts, in blocks and on the whole image."""
    n, h, w, channels = image.shape
    side = next((s for s in _SIDES if h % s == 0 and w % s == 0), 0)
    geometry = (
        Geometry(n, h // side, w // side, (side, side), 2) if side else Geometry(n, 1, 1, (h, w), 1)
    )
    for node in net.plan(geometry, channels, image.dtype).plan.nodes:
        for own in node.inner or (node,):
            if own.macs:
                whole = (
                    full_image_region() if own.how == "whole image" else contextlib.nullcontext()
                )
                with scope(own.where.part.split("/")[0] or "network"), whole:
                    record(own.macs)


def in_blocks(
    net: Callable[..., Any],
    options: BlockOptions | None = None,
    *,
    whole_image: Collection[str] | None = None,
    strict: bool = False,
) -> InBlocks:
    """Makes a network of any library run in blocks: ``in_blocks(net)(sb.split(image, mask))``.

    The network is traced, and each of its operations runs on the list of pixels or, where it reads neighbors, on
    blocks padded with them. An all-high grid gives what the network gives of the image, an all-low grid what it gives
    of the averaged image. Functions of the whole image, such as attention, run on the combined image; sums and
    maxima over all of it are taken from the blocks.

    Whatever else can't run in blocks, such as crops, does so as well, with a `WholeImageWarning` that names the
    operation and its line in the source. The result goes back into blocks where it meets maps in blocks, or a window
    reads it.

    Args:
        net: any function of an image (n, h, w, c) that JAX can trace, to maps of that layout; inside it may have any.
            A module of Flax NNX keeps its running statistics; the arrays of another pytree, such as an Equinox module
            or a `jax.tree_util.Partial`, become parameters; arrays that a function closes over stay as they are.
        options: see `BlockOptions`; default: the network's attribute `semantics`, if it has one.
        whole_image: names of parts that run on the whole image, without a warning: paths of NNX modules, such as
            "spp", names of `jax.named_scope`, or of jitted functions. Default: the network's attribute `whole_image`.
        strict: such an operation is an error instead.

    Returns:
        A module that takes an image, or blocks of it.
    """
    return InBlocks(net, options, whole_image=whole_image, strict=strict)
