"""The plan of a traced function: its operations in order, each on the pixel list, in blocks or on the whole image."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
from jaxtyping import Array

from segblocks_jax.traced.values import (
    Geometry,
    Value,
)

How = Literal["pixels", "blocks", "whole image", "weights"]
Run = Callable[..., Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Where:
    """Where an operation stands in the network: `part` by its scopes, `line` of the source."""

    part: str = ""
    line: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """An operation of a plan.

    Attributes:
        name: of the operation, such as JAX's primitive.
        how: it runs.
        inputs, outputs: numbers of arrays.
        run: ``run(runtime, *inputs)`` gives the outputs.
        where: it stands.
        operands: what the inputs are.
        results: what the outputs are.
        details: of windows, see `segblocks_jax.traced.windows`; for those that read the plan.
        macs: multiply-adds of the dense operation.
        why: it runs on the whole image.
        inner: the operations that it consists of.
    """

    name: str
    how: How
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    run: Run
    where: Where = Where()
    operands: tuple[Value, ...] = ()
    results: tuple[Value, ...] = ()
    details: Any = None
    macs: int = 0
    why: str = ""
    inner: tuple["Node", ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What a traced function does in blocks.

    Attributes:
        nodes: in order.
        arguments, results: of the function.
        constants: arrays by number.
        warnings: a text for every place where it leaves the blocks for a reason of their own.
    """

    geometry: Geometry
    nodes: tuple[Node, ...]
    arguments: tuple[Value, ...]
    results: tuple[Value, ...]
    constants: Mapping[int, Any]
    warnings: tuple[str, ...]


def execute(nodes: Iterable[Node], runtime: Any, values: dict[int, Any]) -> None:
    """Runs nodes in order; `values` has the arrays by number, and gets theirs."""
    for node in nodes:
        with jax.named_scope(node.where.part or node.name):
            made = node.run(runtime, *(values[i] for i in node.inputs))
        values.update(zip(node.outputs, made, strict=True))


def as_image(array: Array, axes: Sequence[str], size: tuple[int, int, int]) -> Array:
    """An array with the axes of images of `size` as (n, h, w, ...)."""
    sizes = dict(zip("nhw", size, strict=True))
    order: dict[str, list[int]] = {"n": [], "h": [], "w": [], "c": []}
    shape: list[int] = []
    for length, axis in zip(array.shape, axes, strict=True):
        for label in axis:
            order[label].append(len(shape))
            shape.append(length if len(axis) == 1 else sizes[label])
    apart = array.reshape(shape)
    if not order["n"]:
        apart, order = apart[None], {k: [i + 1 for i in v] for k, v in order.items()}
        order["n"] = [0]
    return apart.transpose([*order["n"], *order["h"], *order["w"], *order["c"]])


def arranged(image: Array, axes: Sequence[str], shape: Sequence[int]) -> Array:
    """The inverse of `as_image`."""
    places = {"n": 0, "h": 1, "w": 2}
    rest = iter(range(3, image.ndim))
    order = [next(rest) if label == "c" else places[label] for axis in axes for label in axis]
    if len(order) < image.ndim:
        image, order = image[0], [i - 1 for i in order]
    return image.transpose(order).reshape(shape)
