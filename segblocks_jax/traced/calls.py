"""Rules of primitives that hold functions: nested jit, own derivatives, rematerialization, loops over layers."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from segblocks_jax.traced.plan import Node, execute
from segblocks_jax.traced.trace import CALLS, Tracer, apart, grouped, rule
from segblocks_jax.traced.values import Map, Plain, Value

_LONGEST = 128
_SINGLE = ("pixels", "weights")


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


@rule("custom_jvp_call", table=CALLS)
def custom_jvp(tracer: Tracer, eqn: Any, values: list[Value]) -> Sequence[Value]:
    """A function of single pixels keeps its own derivative; any other is derived anew."""
    jaxpr = eqn.params["call_jaxpr"]
    nodes, results = apart(tracer, lambda: tracer.closed(jaxpr, values))
    tangents = None
    if not tracer.deriving:
        with tracer.derived():
            tangents = _tangents(tracer, eqn, values, nodes, results)
    if tangents is None:
        tracer.nodes.extend(nodes)
        return results
    derived, seeds, primals, outcomes = tangents
    outs = [r.number for r in results]

    made = _made((*nodes, *derived)) | {s.number for s in seeds if s is not None}
    read = [i for node in (*nodes, *derived) for i in node.inputs if i not in made]
    own = [v.number for v, s in zip(values, seeds, strict=True) if s is not None]
    inputs = tuple(dict.fromkeys((*own, *read)))

    def run(runtime: Any, *arrays: Array) -> Sequence[Array]:
        def primal(*given: Array) -> list[Array]:
            env = dict(zip(inputs, given, strict=True))
            execute(nodes, runtime, env)
            return [env[i] for i in outs]

        function = jax.custom_jvp(primal)

        def rule_(given: Any, changes: Any) -> Any:
            env = dict(zip(inputs, given, strict=True))
            change = dict(zip(inputs, changes, strict=True))
            for value, seed in zip(values, seeds, strict=True):
                if seed is not None:
                    env[seed.number] = change[value.number]
            execute(derived, runtime, env)
            out = [env[i.number] for i in primals]
            tangent = [
                jnp.zeros_like(x) if t is None else jnp.broadcast_to(env[t.number], x.shape)
                for x, t in zip(out, outcomes, strict=True)
            ]
            return out, tangent

        function.defjvp(rule_)
        return function(*arrays)

    tracer.add(
        Node("custom_jvp_call", "pixels", inputs, tuple(outs), run, tracer.where, tuple(values), tuple(results), eqn.params, inner=tuple(nodes))
    )
    return results


def _made(nodes: Sequence[Node]) -> set[int]:
    return {i for node in nodes for i in node.outputs}


def _tangents(
    tracer: Tracer, eqn: Any, values: list[Value], nodes: Sequence[Node], results: Sequence[Value]
) -> Any:
    """The plan of the derivative, where all of it runs on single pixels."""
    if not nodes or any(node.how not in _SINGLE for node in nodes) or eqn.params["symbolic_zeros"]:
        return None
    if not all(isinstance(r, Map) and r.number in _made(nodes) for r in results):
        return None
    count = eqn.params["num_consts"]
    if any(isinstance(v, Plain) and v.shape for v in values):
        return None
    zeros = [not isinstance(v, Map) or not jnp.issubdtype(v.dtype, jnp.inexact) for v in values[count:]]
    jaxpr, constants, out_zeros = eqn.params["jvp_jaxpr_fun"].call_wrapped(*zeros)
    seeds: list[Value | None] = [None] * count
    for v, zero in zip(values[count:], zeros, strict=True):
        assert zero or isinstance(v, Map)
        seeds.append(None if zero else _like(tracer, v))
    given = [*values[count:], *(s for s in seeds if s is not None)]

    def plan() -> list[Value]:
        return tracer.jaxpr(jaxpr, [tracer.constant(c) for c in constants], given)

    derived, made = apart(tracer, plan)
    if any(node.how not in _SINGLE for node in derived):
        return None
    primals, changes = made[: len(results)], iter(made[len(results) :])
    outcomes = [None if zero else next(changes) for zero in out_zeros]
    if not all(isinstance(p, Map) for p in primals):
        return None
    return derived, seeds, primals, outcomes


def _like(tracer: Tracer, value: Any) -> Map:
    return Map(tracer.number(), value.shape, value.dtype, value.axes, value.side)


@rule("custom_vjp_call", "custom_vjp_call_jaxpr", table=CALLS)
def custom_vjp(tracer: Tracer, eqn: Any, values: list[Value]) -> Sequence[Value]:
    """A function of single pixels keeps its own derivative; any other is derived anew."""
    jaxpr = eqn.params.get("call_jaxpr", eqn.params.get("fun_jaxpr"))
    return tracer.closed(jaxpr, values)


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
    if p["length"] > _LONGEST:
        return _whole(tracer, eqn, values, f"it has {p['length']} steps, more than {_LONGEST}")
    if any(isinstance(v, Map) and v.axes[0] != "c" for v in pieces):
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
    if all(isinstance(v, Map) for v in values):
        first = values[0]
        assert isinstance(first, Map)
        result = Map(tracer.number(), shape, first.dtype, ("c", *first.axes), first.side)
        return tracer.mapped("stack", lambda _, *x: jnp.stack(x, 1), values, result)
    wide = [tracer.combined(v) for v in values]
    aval = jax.ShapeDtypeStruct(shape, values[0].dtype)
    return tracer.plain("stack", lambda *x: jnp.stack(x), wide, aval, params=len(wide))


def _whole(tracer: Tracer, eqn: Any, values: Sequence[Value], why: str) -> Sequence[Value]:
    if any(isinstance(v, Map) for v in values):
        return tracer.on_whole_image(eqn, values, why)
    return tracer.bound(eqn, [tracer.full(v) for v in values], local=False)  # type: ignore[arg-type]

