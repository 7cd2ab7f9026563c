"""Rules of primitives that hold functions: nested jit, rematerialization, branches, loops over layers."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segblocks_jax.traced.groups import apart, grouped
from segblocks_jax.traced.trace import CALLS, Tracer, rule
from segblocks_jax.traced.values import NO_MARGINS, Map, Plain, Value

_LONGEST = 128


@rule("jit", "pjit", "closed_call", "core_call", "custom_lin", table=CALLS)
def call(tracer: Tracer, eqn: Any, values: list[Value]) -> Sequence[Value]:
    """Its operations stand among the others."""
    jaxpr = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    return tracer.closed(jaxpr, values)


@rule("remat", "remat2", "checkpoint", table=CALLS)
def remat(tracer: Tracer, eqn: Any, values: list[Value]) -> Sequence[Value]:
    """The backward pass computes its insides again, in blocks, too."""
    nodes, results = apart(tracer, lambda: tracer.closed(eqn.params["jaxpr"], values))
    options = {k: eqn.params[k] for k in ("policy", "prevent_cse") if k in eqn.params}
    grouped(tracer, "remat", nodes, results, lambda run: jax.checkpoint(run, **options))
    return results


@rule("cond", table=CALLS)
def cond(tracer: Tracer, eqn: Any, values: list[Value]) -> Sequence[Value]:
    """The branch that a constant chooses."""
    index, operands = values[0], values[1:]
    if isinstance(index, Plain) and index.origin == "constant":
        number = int(np.asarray(tracer.evaluate(index)).reshape(()))
        branches = eqn.params["branches"]
        return tracer.closed(branches[min(max(number, 0), len(branches) - 1)], operands)
    return _whole(tracer, eqn, values, "its branch is not known when it is traced")


@rule("while", table=CALLS)
def while_(tracer: Tracer, eqn: Any, values: list[Value]) -> Sequence[Value]:
    """On the whole image."""
    return _whole(tracer, eqn, values, "how often it runs is not known when it is traced")


@rule("scan", table=CALLS)
def scan(tracer: Tracer, eqn: Any, values: list[Value]) -> Sequence[Value]:
    """A loop over layers, whose steps stand one behind the other."""
    p = eqn.params
    consts, carried = p["num_consts"], p["num_consts"] + p["num_carry"]
    fixed, carry, pieces = values[:consts], values[consts:carried], values[carried:]
    if not any(isinstance(v, Map) for v in values):
        return tracer.bound(eqn, [tracer.full(v) for v in values], local=False)  # type: ignore[arg-type]
    if not 0 < p["length"] <= _LONGEST:
        return _whole(tracer, eqn, values, f"it has {p['length']} steps, not 1 to {_LONGEST}")
    if any(isinstance(v, Map) and (v.axes[0] != "c" or v.margins != NO_MARGINS) for v in pieces):
        return _whole(tracer, eqn, values, "it runs along the image")
    collected: list[list[Value]] = []
    steps = range(p["length"])
    for step in reversed(steps) if p["reverse"] else steps:
        own = [_entry(tracer, v, step) for v in pieces]
        results = tracer.closed(p["jaxpr"], [*fixed, *carry, *own])
        carry = results[: p["num_carry"]]
        collected.append(results[p["num_carry"] :])
    if p["reverse"]:
        collected.reverse()
    stacked = [_stack(tracer, list(entries)) for entries in zip(*collected, strict=True)]
    return [*carry, *stacked]


def _entry(tracer: Tracer, value: Value, step: int) -> Value:
    aval = jax.ShapeDtypeStruct(value.shape[1:], value.dtype)
    if isinstance(value, Map):
        result = Map(tracer.number(), value.shape[1:], value.dtype, value.axes[1:], value.side)
        return tracer.mapped("slice", lambda _, x: x[:, step], (value,), result)
    return tracer.plain("slice", lambda x: x[step], (tracer.full(value),), aval, params=step)


def _stack(tracer: Tracer, values: list[Value]) -> Value:
    shape = (len(values), *values[0].shape)
    first = values[0]
    if isinstance(first, Map) and all(_alike(first, v) for v in values):
        result = Map(tracer.number(), shape, first.dtype, ("c", *first.axes), first.side)
        return tracer.mapped("stack", lambda _, *x: jnp.stack(x, 1), values, result)
    if any(isinstance(v, Map) for v in values):
        tracer.warn("stack", "what the steps of the loop give is padded, or no maps alike")
    wide = [tracer.combined(v) for v in values]
    aval = jax.ShapeDtypeStruct(shape, values[0].dtype)
    return tracer.plain("stack", lambda *x: jnp.stack(x), wide, aval, params=len(wide))


def _alike(first: Map, value: Value) -> bool:
    """Whether maps lie on pixel lists of the same pixels and axes."""
    return (
        isinstance(value, Map)
        and (value.axes, value.side) == (first.axes, first.side)
        and value.margins == NO_MARGINS
    )


def _whole(tracer: Tracer, eqn: Any, values: Sequence[Value], why: str) -> Sequence[Value]:
    if any(isinstance(v, Map) for v in values):
        return tracer.on_whole_image(eqn, values, why)
    return tracer.bound(eqn, [tracer.full(v) for v in values], local=False)  # type: ignore[arg-type]
