"""Operations of a plan that belong together."""

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Array

from segblocks_jax.traced.plan import Node, execute
from segblocks_jax.traced.trace import Tracer
from segblocks_jax.traced.values import Value


def inlined(tracer: Tracer, jaxpr: Any, values: list[Value]) -> Sequence[Value]:
    """The results of a jaxpr whose operations stand among the others."""
    return tracer.closed(jaxpr, values)


def apart(tracer: Tracer, run: Callable[[], list[Value]]) -> tuple[list[Node], list[Value]]:
    """The nodes and results of what `run` plans, taken out of the plan."""
    start, converted = len(tracer.nodes), dict(tracer.converted)
    results = run()
    nodes = tracer.nodes[start:]
    del tracer.nodes[start:]
    tracer.converted = converted
    return nodes, results


def grouped(
    tracer: Tracer,
    name: str,
    nodes: Sequence[Node],
    results: Sequence[Value],
    wrap: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> None:
    """Appends one node that runs `nodes` within `wrap`."""
    made = {i for node in nodes for i in node.outputs}
    inputs = tuple(dict.fromkeys(i for node in nodes for i in node.inputs if i not in made))
    outputs = tuple(dict.fromkeys(r.number for r in results if r.number in made))

    def run(runtime: Any, *arrays: Array) -> Sequence[Array]:
        def inside(*given: Array) -> Sequence[Array]:
            env = dict(zip(inputs, given, strict=True))
            execute(nodes, runtime, env)
            return [env[i] for i in outputs]

        return wrap(inside)(*arrays)

    hows = [node.how for node in nodes if node.how != "weights"]
    tracer.add(
        Node(
            name,
            hows[0] if hows else "weights",
            inputs,
            outputs,
            run,
            tracer.where,
            inner=tuple(nodes),
        )
    )
