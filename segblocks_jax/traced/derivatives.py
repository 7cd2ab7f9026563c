"""Rules of functions with derivatives of their own: functions of single pixels keep them."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from segblocks_jax.errors import InputError
from segblocks_jax.traced.groups import apart
from segblocks_jax.traced.plan import Node, execute
from segblocks_jax.traced.trace import CALLS, Tracer, rule
from segblocks_jax.traced.values import Map, Plain, Value

_SINGLE = ("pixels", "weights")


@rule("custom_jvp_call", table=CALLS)
def custom_jvp(tracer: Tracer, eqn: Any, values: list[Value]) -> Sequence[Value]:
    """A function of single pixels keeps its own derivative; any other is derived anew."""
    nodes, results = apart(tracer, lambda: tracer.closed(eqn.params["call_jaxpr"], values))
    if tracer.deriving or eqn.params["symbolic_zeros"] or not _of_pixels(nodes, values, results):
        tracer.nodes.extend(nodes)
        return results
    seeds = _seeds(tracer, values)
    zeros = [s is None for s in seeds[eqn.params["num_consts"] :]]
    jaxpr, constants, out_zeros = eqn.params["jvp_jaxpr_fun"].call_wrapped(*zeros)
    given = [*values[eqn.params["num_consts"] :], *(s for s in seeds if s is not None)]
    with tracer.derived():
        derived, made = apart(
            tracer, lambda: tracer.jaxpr(jaxpr, tracer.captured(constants), given)
        )
    primals, changes = made[: len(results)], iter(made[len(results) :])
    outcomes = [None if zero else next(changes) for zero in out_zeros]
    if any(n.how not in _SINGLE for n in derived) or not all(isinstance(p, Map) for p in primals):
        tracer.nodes.extend(nodes)
        return results
    inputs = _inputs((*nodes, *derived), values, seeds)
    outs = [r.number for r in results]

    def run(runtime: Any, *arrays: Array) -> Sequence[Array]:
        function = jax.custom_jvp(_primal(nodes, runtime, inputs, outs))

        def jvp(given: Any, changes: Any) -> Any:
            env = dict(zip(inputs, given, strict=True))
            change = dict(zip(inputs, changes, strict=True))
            for value, seed in zip(values, seeds, strict=True):
                if seed is not None:
                    env[seed.number] = change[value.number]
            execute(derived, runtime, env)
            out = [env[p.number] for p in primals]
            tangents = [
                jnp.zeros_like(x) if t is None else jnp.broadcast_to(env[t.number], x.shape)
                for x, t in zip(out, outcomes, strict=True)
            ]
            return out, tangents

        function.defjvp(jvp)
        return function(*arrays)

    return _added(tracer, "custom_jvp_call", inputs, results, values, nodes, run)


@rule("custom_vjp_call", table=CALLS)
def custom_vjp(tracer: Tracer, eqn: Any, values: list[Value]) -> Sequence[Value]:
    """A function of single pixels keeps its own derivative; any other has none, and says so."""
    nodes, results = apart(tracer, lambda: tracer.closed(eqn.params["call_jaxpr"], values))
    if tracer.deriving or not any(isinstance(v, Map) for v in values):
        tracer.nodes.extend(nodes)
        return results
    backward = None
    if _of_pixels(nodes, values, results) and not eqn.params["symbolic_zeros"]:
        backward = _backward(tracer, eqn, values, results)
    made = {i for node in nodes for i in node.outputs}
    outs = [r.number for r in results if r.number in made]
    inputs = _inputs(nodes, values, [None] * len(values))
    line = tracer.where.line

    def run(runtime: Any, *arrays: Array) -> Sequence[Array]:
        function = jax.custom_vjp(_primal(nodes, runtime, inputs, outs))

        def forward(*given: Array) -> Any:
            if backward is None:
                return _primal(nodes, runtime, inputs, outs)(*given), ()
            return backward.forward(runtime, dict(zip(inputs, given, strict=True)))

        def back(saved: Any, cotangents: Any) -> Any:
            if backward is None:
                raise InputError(
                    f"in_blocks: the function at {line} has a derivative of its own (jax.custom_vjp) and is none of"
                    " single pixels; use jax.custom_jvp, or leave its derivative to JAX"
                )
            found = backward.back(runtime, saved, cotangents)
            return tuple(found.get(i) for i in inputs)

        function.defvjp(forward, back)
        return function(*arrays)

    return _added(tracer, "custom_vjp_call", inputs, results, values, nodes, run, outs)


class _Backward:
    """The plans of a function's own forward and backward pass."""

    def __init__(
        self, ahead: Any, behind: Any, saved: Any, seeds: Any, grads: Any, constants: Any
    ) -> None:
        self.ahead, self.outs = ahead
        self.constants = constants
        self.behind, self.saved, self.seeds, self.grads = behind, saved, seeds, grads

    def forward(self, runtime: Any, env: dict[int, Any]) -> Any:
        """The outputs, and what the backward pass needs."""
        env = {**self.constants, **env}
        execute(self.ahead, runtime, env)
        return [env[v.number] for v in self.outs], {i: env[i] for i in self.saved if i in env}

    def back(self, runtime: Any, saved: dict[int, Any], cotangents: Any) -> dict[int, Any]:
        """Cotangents by the inputs' numbers."""
        env = {**self.constants, **saved}
        env.update(zip((s.number for s in self.seeds), cotangents, strict=True))
        execute(self.behind, runtime, env)
        return {i: env[v.number] for i, v in self.grads.items()}


def _backward(
    tracer: Tracer, eqn: Any, values: list[Value], results: Sequence[Value]
) -> _Backward | None:
    params, count = eqn.params, eqn.params["num_consts"]
    own = values[count:]
    wanted = [isinstance(v, Map) and jnp.issubdtype(v.dtype, jnp.inexact) for v in own]
    jaxpr, constants = params["fwd_jaxpr_thunk"].call_wrapped(*wanted)
    with tracer.derived():
        ahead, made = apart(tracer, lambda: tracer.jaxpr(jaxpr, tracer.captured(constants), own))
    _, _, forwarded = params["out_trees"]()
    own_kept = iter(made[: len(made) - len(results)])
    residuals = [next(own_kept) if f is None else own[f] for f in forwarded]
    outs = made[len(made) - len(results) :]
    seeds = [_like(tracer, r) for r in results]
    zero: list[bool] = []

    def behind(given: Any, cotangents: Any) -> Any:
        found = params["bwd"].call_wrapped(*given, *cotangents)
        zero.extend(not isinstance(x, jax.Array) for x in found)
        return [x for x in found if isinstance(x, jax.Array)]

    shapes = [
        [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in group] for group in (residuals, seeds)
    ]
    closed = jax.make_jaxpr(behind)(*shapes)
    with tracer.derived():
        after, found = apart(
            tracer,
            lambda: tracer.jaxpr(
                closed.jaxpr, tracer.captured(closed.consts), [*residuals, *seeds]
            ),
        )
    if any(n.how not in _SINGLE for n in (*ahead, *after)):
        return None
    given = iter(found)
    grads = {}
    for value, none in zip(own, zero[-len(own) :], strict=True):
        grad = None if none else next(given)
        if grad is not None and isinstance(value, Map):
            if not isinstance(grad, Map):
                return None
            grads[value.number] = grad
    inside = {i for node in after for i in node.outputs} | {s.number for s in seeds}
    saved = {i for node in after for i in node.inputs} | {g.number for g in grads.values()}
    read = {i for node in (*ahead, *after) for i in node.inputs}
    constants = {i: jnp.asarray(tracer.constants[i]) for i in read & tracer.constants.keys()}
    kept = sorted(saved - inside - constants.keys())
    return _Backward((ahead, outs), after, kept, seeds, grads, constants)


def _of_pixels(nodes: Sequence[Node], values: Sequence[Value], results: Sequence[Value]) -> bool:
    """Whether a function of maps alone computes maps from single pixels."""
    made = {i for node in nodes for i in node.outputs}
    return (
        bool(nodes)
        and all(node.how in _SINGLE for node in nodes)
        and all(isinstance(r, Map) and r.number in made for r in results)
        and not any(isinstance(v, Plain) and v.shape for v in values)
    )


def _seeds(tracer: Tracer, values: Sequence[Value]) -> list[Map | None]:
    """Stand-ins of the maps' tangents."""
    return [
        _like(tracer, v) if isinstance(v, Map) and jnp.issubdtype(v.dtype, jnp.inexact) else None
        for v in values
    ]


def _like(tracer: Tracer, value: Any) -> Map:
    return Map(tracer.number(), value.shape, value.dtype, value.axes, value.side)


def _inputs(
    nodes: Sequence[Node], values: Sequence[Value], seeds: Sequence[Map | None]
) -> tuple[int, ...]:
    """Numbers of what nodes read from outside, the values first."""
    made = {i for node in nodes for i in node.outputs}
    made |= {s.number for s in seeds if s is not None}
    own = [v.number for v in values if isinstance(v, Map)]
    return tuple(dict.fromkeys((*own, *(i for n in nodes for i in n.inputs if i not in made))))


def _primal(nodes: Sequence[Node], runtime: Any, inputs: Sequence[int], outs: Sequence[int]) -> Any:
    def primal(*given: Array) -> list[Array]:
        env = dict(zip(inputs, given, strict=True))
        execute(nodes, runtime, env)
        return [env[i] for i in outs]

    return primal


def _added(
    tracer: Tracer,
    name: str,
    inputs: tuple[int, ...],
    results: Sequence[Value],
    values: Sequence[Value],
    nodes: Sequence[Node],
    run: Any,
    outs: Sequence[int] | None = None,
) -> Sequence[Value]:
    outputs = tuple(r.number for r in results) if outs is None else tuple(outs)
    hows = [node.how for node in nodes if node.how not in _SINGLE]
    how = hows[0] if hows else "pixels"
    about = (tracer.where, tuple(values), tuple(results))
    tracer.add(Node(name, how, inputs, outputs, run, *about, inner=tuple(nodes)))
    return results
