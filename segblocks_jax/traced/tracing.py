"""Traces a network's function and plans it; runs the plan."""

import dataclasses
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from segblocks_jax.blocks import DualRes
from segblocks_jax.errors import InputError
from segblocks_jax.nn.regions import BlockOptions
from segblocks_jax.traced.names import named
from segblocks_jax.traced.plan import Plan, execute
from segblocks_jax.traced.runtime import Runtime
from segblocks_jax.traced.trace import Tracer
from segblocks_jax.traced.values import Geometry, Map, Plain, Value

_AXES = ("n", "h", "w", "c")


class WholeImageWarning(UserWarning):
    """An operation of a network runs on the whole image, since it can't run in blocks."""


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
    value = tracer.left_region(value)
    if isinstance(value, Plain):
        return tracer.as_map(value) or value
    if value.number in tracer.makers:
        tracer.where = tracer.makers[value.number].where
    if any(map(any, value.margins)):
        tracer.warn("the result", "it is padded")
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
