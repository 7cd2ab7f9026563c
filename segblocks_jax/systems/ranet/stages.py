"""A RANet prepared for serving, stage by stage: as it is trained, or fused on compiled handlers.

A stage takes what is carried from the one before, images at first, and gives logits and what it carries on. All that
is carried has the images as its first axis, so that images that leave are dropped by one gather.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax.inference.fusion import Planner
from segblocks_jax.inference.steps import (
    ConvStep,
    LayerStep,
    Layout,
    PointwiseStep,
    State,
    Step,
)
from segblocks_jax.nn.scope import record_calls
from segblocks_jax.systems.ranet.network import RANet, run_base, run_stage

Logits = Float[Array, "n k"]
Carried = tuple[Float[Array, "n _h _w _c"], ...]


@runtime_checkable
class Stages(Protocol):
    """What runs up to each exit.

    Attributes:
        weights: a pytree for each stage.
    """

    weights: list[Any]

    def run(self, number: int, weights: Any, carried: Carried) -> tuple[Logits, Carried]:
        """Runs a stage with its weights on what the one before carried on, the first on normalized images."""


class PlainStages:
    """On the layers that are trained."""

    def __init__(self, net: RANet, size: tuple[int, int]) -> None:
        """For images of (height, width) `size`; takes copies of the weights."""
        net = nnx.clone(net)
        net.eval()
        self._stages, self._graphs, self.weights = net.stages, [], []
        for stage in net.stages:
            base = nnx.List(list(net.base) if stage.number == 0 else [])
            head = net.exits[stage.number]
            graph, state = nnx.split((base, nnx.List(net.blocks(stage)), head))
            self._graphs.append(graph)
            self.weights.append(state)
        self._structures = _structures(net, size)

    def run(self, number: int, weights: Any, carried: Carried) -> tuple[Logits, Carried]:
        """See `Stages`."""
        base, blocks, head = nnx.merge(self._graphs[number], weights)
        if number == 0:
            progress = run_base(base, carried[0])
        else:
            progress = jax.tree.unflatten(self._structures[number], carried)
        logits, progress = run_stage(self._stages[number], list(blocks), head, progress)
        return logits, tuple(jax.tree.leaves(progress))


def _structures(net: RANet, size: tuple[int, int]) -> list[Any]:
    """Of the progress before each stage."""
    graphdef, state = nnx.split(net)
    found = []

    def run(state: nnx.State, images: Array) -> None:
        net = nnx.merge(graphdef, state)
        progress = net.start(images)
        for number in range(len(net.stages)):
            found.append(jax.tree.structure(progress))
            _, progress = net.stage(number, progress)

    jax.eval_shape(run, state, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))
    return found


class FusedStages:
    """On packed pixel lists: norms and ReLUs in the convolutions' epilogues, as in `segblocks_jax.inference.fused`.

    The steps of the whole network are cut behind each exit; a stage carries what later ones read.
    """

    def __init__(self, net: RANet, size: tuple[int, int]) -> None:
        """For images of (height, width) `size`; takes copies of the weights."""
        net = nnx.clone(net)
        net.eval()
        names = {id(x): ".".join(map(str, path)) for path, x in nnx.iter_graph(net)}
        steps = Planner(*record_calls(net, (1, *size, 3)), names).steps()
        self.weights = list(_cut(steps))
        self._sides = _sides(steps, size)
        reads = [{n for step in part for n in _reads(step)} for part in self.weights]
        made = [{n for step in part for n in _makes(step)} for part in self.weights]
        self._carried: list[tuple[int, ...]] = [(0,)]
        for i in range(1, len(reads)):
            before, after = set().union(*made[:i]), set().union(*reads[i:])
            self._carried.append(tuple(sorted(before & after)))
        self._carried.append(())

    def run(self, number: int, weights: Any, carried: Carried) -> tuple[Logits, Carried]:
        """See `Stages`."""
        count, state = carried[0].shape[0], None
        cache: dict[Any, Any] = {}
        for which, image in zip(self._carried[number], carried, strict=True):
            pixels = image.reshape(-1, image.shape[-1])
            layout = Layout(count, self._sides[which], cache)
            if state is None:
                state = State(pixels, layout, which)
            else:
                state.add(which, pixels, layout)
        assert state is not None
        for step in weights:
            step.run(state)
        kept = tuple(state.features(which) for which in self._carried[number + 1])
        return state.latest, kept


def _cut(steps: Sequence[Step]) -> Iterator[tuple[Step, ...]]:
    """The steps up to each exit."""
    part: list[Step] = []
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        part.append(step)
        if step.part.startswith("exit") and (following is None or following.part != step.part):
            yield tuple(part)
            part = []


def _sides(steps: Sequence[Step], size: tuple[int, int]) -> dict[int, tuple[int, ...]]:
    """(height, width) of every value."""
    found: dict[int, tuple[int, ...]] = {}

    def run(steps: Sequence[Step], image: Array) -> None:
        state = State(image.reshape(-1, 3), Layout(1, size))
        for step in steps:
            step.run(state)
        found.update({number: layout.sides for number, layout in state.layouts.items()})

    jax.eval_shape(run, steps, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))
    return found


def _reads(step: Any) -> list[int]:
    if isinstance(step, PointwiseStep):
        return list(step.inputs)
    if isinstance(step, LayerStep):
        return [number for _, number in step.inputs]
    beside = [step.residual] if isinstance(step, ConvStep) and step.residual is not None else []
    return [step.input, *beside]


def _makes(step: Any) -> list[int]:
    if not isinstance(step, ConvStep):
        return [step.output]
    return ([step.output] if step.keep else []) + ([] if step.second is None else [step.second])
