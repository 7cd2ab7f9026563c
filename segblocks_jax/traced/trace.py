"""Follows a jaxpr, equation by equation, and plans how each runs in blocks."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import core as core_jax
from jax import dtypes
from jax.extend import core, source_info_util
from jaxtyping import Array

from segblocks_jax.nn.regions import BlockOptions
from segblocks_jax.traced.builder import Builder
from segblocks_jax.traced.operations import multiply_adds
from segblocks_jax.traced.plan import Where
from segblocks_jax.traced.values import Geometry, Map, NotInBlocks, Plain, Value, is_spread

Rule = Callable[["Tracer", Any, list[Value]], Sequence[Value]]
RULES: dict[str, Rule] = {}
"""How primitives run with at least one map among their operands, by name."""
PLAIN_RULES: dict[str, Rule] = {}
"""How primitives run on plain arrays, where that is not simply as they are."""
CALLS: dict[str, Rule] = {}
"""Primitives that hold functions."""
ELEMENTWISE: set[str] = set()
"""Primitives that compute element by element."""
_LOCAL = {
    "conv_general_dilated",
    "transpose",
    "concatenate",
    "broadcast_in_dim",
    "squeeze",
    "stop_gradient",
}
_FRAMES = 40
_NOT_OWN = ("site-packages", "segblocks_jax/traced/", "unknown")
_SMALL = 2**16  # Elements of arrays that are looked at.
_GLOBAL = {"dot_general"}
"""Functions of the whole image by what they are, if they can't run on pixels: attention."""


def rule(*names: str, table: dict[str, Rule] = RULES) -> Callable[[Rule], Rule]:
    """Registers a rule."""

    def register(function: Rule) -> Rule:
        table.update(dict.fromkeys(names, function))
        return function

    return register


class Tracer(Builder):
    """Plans a jaxpr.

    Attributes:
        warnings: why places of the function leave the blocks.
        deriving: whether a derivative is being planned.
    """

    def __init__(
        self, geometry: Geometry, options: BlockOptions, whole_image: Collection[str] = ()
    ) -> None:
        """`whole_image` are names of scopes that run on the whole image."""
        super().__init__(geometry, options)
        self.whole_image = frozenset(whole_image)
        self.warnings: dict[str, None] = {}
        self.deriving = False
        self._scopes: tuple[str, ...] = ()

    def jaxpr(
        self, jaxpr: Any, constants: Sequence[Value], arguments: Sequence[Value]
    ) -> list[Value]:
        """The results of a jaxpr."""
        values: dict[Any, Value] = dict(zip(jaxpr.constvars, constants, strict=True))
        values.update(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Any:
            if isinstance(atom, core.Literal):
                aval: Any = atom.aval
                return self.constant(np.asarray(atom.val, aval.dtype))
            return values[atom]

        for eqn in jaxpr.eqns:
            results = self.equation(eqn, [read(atom) for atom in eqn.invars])
            values.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def closed(self, jaxpr: Any, arguments: Sequence[Value]) -> list[Value]:
        """The results of a closed jaxpr."""
        if hasattr(jaxpr, "consts"):
            return self.jaxpr(jaxpr.jaxpr, self.captured(jaxpr.consts), arguments)
        return self.jaxpr(jaxpr, [], arguments)

    @contextlib.contextmanager
    def derived(self) -> Iterator[None]:
        """Within it derivatives are planned: functions in them need none of their own."""
        self.deriving = True
        try:
            yield
        finally:
            self.deriving = False

    def captured(self, arrays: Sequence[Any]) -> list[Value]:
        """Arrays that a function closes over: constants if they are known and small, else weights."""
        return [self._captured(x) for x in arrays]

    def _captured(self, array: Any) -> Value:
        known = not isinstance(array, core_jax.Tracer)
        known = known and not jnp.issubdtype(array.dtype, dtypes.extended)
        if known and array.size <= _SMALL and array.dtype != bool:
            return self.constant(array)
        # The same in every trace where it can be: fused networks find by it what they prepared.
        name = hashlib.sha256(np.asarray(array).tobytes()).hexdigest() if known else self.number()
        value = self.weights(array, f"captured {name}")
        self.constants[value.number] = array
        return value

    def constant_map(self, value: Plain, axes: tuple[str, ...]) -> Map | None:
        """An array that is the same everywhere, as a map where it has the size of one."""
        if value.origin == "image" or len(value.shape) != len(axes) or is_spread(value, axes):
            return None
        height, width = (value.shape[axes.index(a)] for a in "hw")
        side = self._side(height, width)
        if side is None or value.stored[axes.index("n")] != 1:
            return None
        rest = tuple(s for s, a in zip(value.shape, axes, strict=True) if a == "c")
        result = Map(self.number(), value.shape, value.dtype, axes, side)

        def run(runtime: Any, x: Array) -> Array:
            flat = x.reshape(1, *(s for s, a in zip(x.shape, axes, strict=True) if a == "c"))
            return jnp.broadcast_to(flat, (runtime.count(side), *rest))

        return self.mapped("broadcast", run, (value,), result)

    def _side(self, height: int, width: int) -> tuple[int, int] | None:
        """Sides of blocks in maps of a size that is a scale of the image's."""
        h, w = self.geometry.size
        if height < 2 or width < 2 or h * width != w * height:
            return None
        return self.geometry.block(height, width)

    def equation(self, eqn: Any, values: list[Value]) -> Sequence[Value]:
        """The results of an equation."""
        outer, scopes, region = self.where, self._scopes, self.region
        own = tuple(filter(None, str(eqn.source_info.name_stack).split("/")))
        self._scopes = scopes + own
        part = "/".join(filter(None, (outer.part, *own)))
        line = _line(eqn) or outer.line
        self.where = Where(part, line)
        names = {*self._scopes, eqn.params.get("name", ""), part, part.replace("/", ".")}
        if self.region is None and self.whole_image & names:
            self.region = next(iter(self.whole_image & names))
        try:
            return self._planned(eqn, values)
        finally:
            self.where, self._scopes, self.region = outer, scopes, region

    def _planned(self, eqn: Any, values: list[Value]) -> Sequence[Value]:
        name = eqn.primitive.name
        if self.region is None:
            values = [self.left_region(v) for v in values]
        else:
            values = [self.combined(v) if isinstance(v, Map) else v for v in values]
        if name in CALLS:
            return CALLS[name](self, eqn, values)
        maps = [v for v in values if isinstance(v, Map)]
        if not maps:
            return self._plain(eqn, values)
        try:
            if name not in RULES:
                raise NotInBlocks(f"{name} is no operation that is known to run in blocks")
            return RULES[name](self, eqn, values)
        except NotInBlocks as error:
            return self.on_whole_image(eqn, values, str(error))

    def left_region(self, value: Value) -> Value:
        """A value; as a map, where it comes out of a named region and is one."""
        if isinstance(value, Plain) and value.region is not None:
            # Its positions are the image's, since it is a part of the network in one piece.
            return self.as_map(dataclasses.replace(value, local=True)) or value
        return value

    def as_map(self, value: Plain, axes: tuple[str, ...] = ("n", "h", "w", "c")) -> Map | None:
        """An image's array as a map, where positions are still those of the image and blocks fit."""
        if value.origin != "image" or not value.local or len(value.shape) != len(axes):
            return None
        if self.region is not None:
            return None
        height, width = (value.shape[axes.index(a)] for a in "hw")
        side = self._side(height, width)
        if value.shape[axes.index("n")] != self.geometry.images:
            return None
        return None if side is None else self.splitted(value, axes, side)

    def _plain(self, eqn: Any, values: list[Any]) -> Sequence[Value]:
        name = eqn.primitive.name
        if name in PLAIN_RULES:
            try:
                return PLAIN_RULES[name](self, eqn, values)
            except NotInBlocks:
                pass
        return self.bound(eqn, [self.full(v) for v in values], local=name in _LOCAL | ELEMENTWISE)

    def bound(self, eqn: Any, values: Sequence[Plain], **about: Any) -> Sequence[Value]:
        """The equation as it is, on plain arrays."""

        def run(*arrays: Array) -> Sequence[Array]:
            params = eqn.primitive.get_bind_params(eqn.params)
            made = eqn.primitive.bind(*arrays, **params)
            return made if eqn.primitive.multiple_results else [made]

        avals = [v.aval for v in eqn.outvars]
        if any(v.origin == "image" for v in values):
            about.setdefault("macs", multiply_adds(eqn, values))
            about.setdefault("details", eqn.params)
        return self.plains(eqn.primitive.name, run, values, avals, params=eqn.params, **about)

    def on_whole_image(self, eqn: Any, values: Sequence[Value], why: str) -> Sequence[Value]:
        """The equation on combined images, and the warning that says so."""
        name = eqn.primitive.name
        wide = [self.combined(v) for v in values]
        expected = name in _GLOBAL and all(
            isinstance(v, Map) or v.origin == "image" for v in values
        )
        if not expected:
            self.warn(name, why)
        return self.bound(eqn, wide, local=name in _LOCAL | ELEMENTWISE, why=why)

    def warn(self, name: str, why: str) -> None:
        """Notes that an operation leaves the blocks."""
        self.warnings[
            f"{name} ({self.where.line or 'source unknown'}) runs on the whole image: {why}"
        ] = None


def _line(eqn: Any) -> str:
    """The innermost line of the source that is no installed library's."""
    frames = source_info_util.summarize(eqn.source_info, num_frames=_FRAMES).split("\n")[::-1]
    own = [f for f in frames if not any(x in f for x in _NOT_OWN)]
    return (own or frames)[0].replace("unknown", "")
