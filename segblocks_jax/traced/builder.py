"""Builder: makes the values and nodes of a plan; knows constants and the expressions of weights."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array

from segblocks_jax.nn.regions import BlockOptions
from segblocks_jax.traced.plan import Node, Run, Where, arranged, as_image, execute
from segblocks_jax.traced.runtime import Runtime
from segblocks_jax.traced.values import (
    Geometry,
    Map,
    Origin,
    Plain,
    Value,
)

_ORIGINS: tuple[Origin, ...] = ("image", "weights", "constant")


class Builder:
    """Makes the nodes and values of a plan."""

    def __init__(self, geometry: Geometry, options: BlockOptions) -> None:
        """Of blocks of a geometry."""
        self.geometry, self.options = geometry, options
        self.nodes: list[Node] = []
        self.constants: dict[int, Any] = {}
        self.makers: dict[int, Node] = {}
        self.where = Where()
        self.region: str | None = None
        self._numbers = 0
        self.converted: dict[Any, Any] = {}

    def number(self) -> int:
        """A new one."""
        self._numbers += 1
        return self._numbers

    def add(self, node: Node) -> None:
        """Appends a node."""
        self.nodes.append(node)
        self.makers.update((i, node) for i in node.outputs)

    def constant(self, array: Any) -> Plain:
        """A value that is known."""
        array = array if isinstance(array, jax.Array) else np.asarray(array)
        number = self.number()
        self.constants[number] = array
        key = _digest("constant", array.dtype, array.shape, np.asarray(array).tobytes())
        return Plain(number, array.shape, array.dtype, array.shape, "constant", key)

    def weights(self, array: Any, name: str) -> Plain:
        """An array of the network, of which only shape and dtype are known."""
        key, shape = _digest("weights", name), tuple(array.shape)
        return Plain(self.number(), shape, array.dtype, shape, "weights", key)

    def plain(
        self,
        name: str,
        run: Callable[..., Any],
        inputs: Sequence[Plain],
        aval: Any,
        stored: tuple[int, ...] | None = None,
        *,
        params: Any = None,
    ) -> Plain:
        """A plain array made of others by `run(*inputs)`, whose positions stay those of the image."""
        made = self.plains(name, lambda *x: (run(*x),), inputs, [aval], stored, params=params)
        return made[0]

    def plains(
        self,
        name: str,
        run: Callable[..., Any],
        inputs: Sequence[Plain],
        avals: Sequence[Any],
        stored: tuple[int, ...] | None = None,
        *,
        params: Any = None,
        local: bool = True,
        **about: Any,
    ) -> list[Plain]:
        """Plain arrays made of others; `local`: positions stay those of the image."""
        origins = {x.origin for x in inputs}
        origin: Origin = next((o for o in _ORIGINS if o in origins), "constant")
        key = None
        if origin != "image":
            key = _digest(name, params, *(x.key for x in inputs), *(x.stored for x in inputs))
        images = [x for x in inputs if x.origin == "image"]
        results = [
            Plain(
                self.number(),
                tuple(a.shape),
                a.dtype,
                tuple(a.shape) if stored is None else stored,
                origin,
                None if key is None else f"{key}.{i}",
                bool(images) and local and all(x.local for x in images),
                self.region,
            )
            for i, a in enumerate(avals)
        ]
        self.add(
            Node(
                name,
                "whole image" if origin == "image" else "weights",
                tuple(x.number for x in inputs),
                tuple(r.number for r in results),
                lambda runtime, *arrays: run(*arrays),
                self.where,
                tuple(inputs),
                tuple(results),
                **about,
            )
        )
        return results

    def full(self, value: Plain) -> Plain:
        """The array with all its elements, none repeated."""
        if value.stored == value.shape:
            return value
        shape, again = value.shape, ("full", value.number, value.shape)
        if again not in self.converted:
            self.converted[again] = self.plain(
                "broadcast",
                lambda x: jnp.broadcast_to(x, shape),
                (value,),
                jax.ShapeDtypeStruct(shape, value.dtype),
                params=shape,
            )
        return self.converted[again]

    def mapped(
        self, name: str, run: Run, inputs: Sequence[Value], result: Map, **about: Any
    ) -> Map:
        """Appends the node that makes a map; `run` gets the runtime and the inputs' arrays."""
        about.setdefault("how", "pixels")
        self.add(
            Node(
                name,
                inputs=tuple(x.number for x in inputs),
                outputs=(result.number,),
                run=lambda runtime, *arrays: (run(runtime, *arrays),),
                where=self.where,
                operands=tuple(inputs),
                results=(result,),
                **about,
            )
        )
        return result

    def combined(self, value: Value) -> Plain:
        """A value as the array of the whole image."""
        if isinstance(value, Plain):
            return self.full(value)
        again = ("combined", value.number, value.axes, value.shape, value.margins, value.outside)
        if again in self.converted:
            return self.converted[again]
        margins, outside = value.margins, value.outside
        axes, side, shape = value.axes, value.side, value.shape

        def run(runtime: Runtime, pixels: Array) -> Sequence[Array]:
            image = runtime.combine(pixels, side)
            around = ((0, 0), *margins, *((0, 0),) * (image.ndim - 3))
            if any(map(any, margins)):
                image = jnp.pad(image, around, constant_values=outside)
            return (arranged(image, axes, shape),)

        result = Plain(self.number(), shape, value.dtype, shape, "image", None, True, self.region)
        self.add(
            Node(
                "combine",
                "whole image",
                (value.number,),
                (result.number,),
                run,
                self.where,
                (value,),
                (result,),
            )
        )
        self.converted[again] = result
        return result

    def splitted(self, value: Plain, axes: tuple[str, ...], side: tuple[int, int]) -> Map:
        """The map of a plain array that has the image's axes; NotInBlocks where blocks don't fit."""
        again = ("split", value.number, axes, value.shape, side)
        if again in self.converted:
            return self.converted[again]
        value = self.full(value)
        geometry = self.geometry
        size = geometry.images, geometry.rows * side[0], geometry.columns * side[1]
        result = Map(self.number(), value.shape, value.dtype, axes, side)
        made = self.mapped(
            "split",
            lambda runtime, x: runtime.split(as_image(x, axes, size), side),
            (value,),
            result,
            how="whole image" if value.origin == "image" else "pixels",
        )
        self.converted[again] = made
        return made

    def reduced(self, name: str, run: Run, value: Map, aval: Any) -> Plain:
        """A plain array that `run(runtime, pixels)` makes of a map."""
        shape = tuple(aval.shape)
        result = Plain(self.number(), shape, aval.dtype, shape, "image")
        about = (self.where, (value,), (result,))
        self.add(Node(name, "pixels", (value.number,), (result.number,), run, *about))
        return result

    def evaluate(self, value: Plain) -> np.ndarray:
        """A constant's elements, in its stored shape."""
        assert value.origin == "constant"
        if value.number in self.constants:
            return np.asarray(self.constants[value.number])
        if value.key not in _KNOWN:
            needed = self._needed(value.number)
            constants = {
                i: np.asarray(self.constants[i])
                for node in needed
                for i in node.inputs
                if i in self.constants
            }

            def run(values: dict[int, Any]) -> Array:
                values = dict(values)
                execute(needed, None, values)
                return values[value.number]

            # Compiled ahead of time, so that a trace around it plays no part.
            _KNOWN[value.key] = np.asarray(jax.jit(run).lower(constants).compile()(constants))
        return _KNOWN[value.key]

    def _needed(self, number: int) -> list[Node]:
        found, wanted = [], {number}
        for node in reversed(self.nodes):
            if wanted & set(node.outputs):
                found.append(node)
                wanted.update(node.inputs)
        return found[::-1]


_KNOWN: dict[str | None, np.ndarray] = {}


def _digest(*parts: Any) -> str:
    text = "|".join(p.hex() if isinstance(p, bytes) else _stable(p) for p in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _stable(part: Any) -> str:
    if isinstance(part, dict):
        return str(sorted((k, _stable(v)) for k, v in part.items()))
    if isinstance(part, core.ClosedJaxpr | core.Jaxpr):
        return str(part)
    return str(part)
