"""Compiled programs of a RANet for serving: one per stage and number of images, and what moves images together."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from segblocks_jax.data.normalization import Normalization, normalize
from segblocks_jax.inference.programs import KeyedCache
from segblocks_jax.ops import extension
from segblocks_jax.systems.ranet.network import RANet
from segblocks_jax.systems.ranet.settings import Program
from segblocks_jax.systems.ranet.stages import FusedStages, PlainStages, Stages

Execution = Literal["fused", "plain", "xla"]
EXECUTIONS: tuple[Execution, ...] = ("fused", "plain", "xla")


class StagePrograms:
    """The programs of a network.

    Attributes:
        size: (height, width) of images.
        execution: "fused", "plain" or "xla", see `segblocks_jax.systems.ranet.engine.Engine`.
    """

    def __init__(
        self,
        net: RANet,
        size: tuple[int, int],
        normalization: Normalization,
        execution: Execution | None = None,
    ) -> None:
        """Takes copies of the weights, in evaluation mode, prepared for the execution; compiles nothing yet."""
        compiled = jax.default_backend() == "cpu" and extension.resolve() == "ffi"
        self.size, self._normalization = size, normalization
        self.execution: Execution = execution or ("fused" if compiled else "plain")
        self.count = len(net.stages)
        with self.tracing():
            self._stages = self._prepare(net)
        self._leaves = [jax.tree.leaves(weights) for weights in self._stages.weights]
        self._compiled: KeyedCache[Program, jax.stages.Compiled] = KeyedCache()
        self._shapes: dict[tuple[int, int], Any] = {}

    def _prepare(self, net: RANet) -> Stages:
        if self.execution == "fused":
            return FusedStages(net, self.size)
        return PlainStages(net)

    def tracing(self) -> contextlib.AbstractContextManager[None]:
        """The context that programs are traced in."""
        return extension.using({"fused": "ffi", "xla": "xla"}.get(self.execution))

    @property
    def compilations(self) -> int:
        """How many programs were compiled."""
        return self._compiled.made

    def get(self, program: Program) -> tuple[Callable[..., Any], bool]:
        """The compiled program as a function of what is carried, and whether this call compiled it.

        A stage gives probabilities (n, classes) and what it carries on. The others take the rows to pick, too.
        """
        compiled, made = self._compiled.get(program, lambda: self._compile(program))
        if program.before:
            return compiled, made
        leaves = self._leaves[program.stage]
        return (lambda carried: compiled(leaves, carried)), made

    def _compile(self, program: Program) -> jax.stages.Compiled:
        with self.tracing():
            if program.before:
                carried = self.carried(program.stage, program.before)
                rows = jax.ShapeDtypeStruct((program.count,), jnp.int32)
                return jax.jit(_pick).lower(carried, rows).compile()
            carried = self.carried(program.stage, program.count)
            function = self.function(program.stage)
            return jax.jit(function).lower(self._leaves[program.stage], carried).compile()

    def function(self, stage: int) -> Callable[[Sequence[Array], Any], Any]:
        """A stage as a function of its weights' leaves and what is carried, to be traced within `tracing`."""
        structure = jax.tree.structure(self._stages.weights[stage])

        def run(leaves: Sequence[Array], carried: Any) -> Any:
            if stage == 0:
                carried = normalize(carried, *self._normalization)
            weights = jax.tree.unflatten(structure, leaves)
            logits, kept = self._stages.run(stage, weights, carried)
            return jax.nn.softmax(logits.astype(jnp.float32)), kept

        return run

    def leaves(self, stage: int) -> list[Array]:
        """The weights of a stage."""
        return self._leaves[stage]

    def carried(self, stage: int, count: Any) -> Any:
        """Shapes and dtypes of what a stage takes of `count` images, which may be symbolic."""
        if stage == 0:
            return jax.ShapeDtypeStruct((count, *self.size, 3), jnp.uint8)
        key = stage, count
        if key not in self._shapes:
            function, leaves = self.function(stage - 1), self._leaves[stage - 1]
            _, kept = jax.eval_shape(function, leaves, self.carried(stage - 1, count))
            self._shapes[key] = kept
        return self._shapes[key]


def _pick(carried: Any, rows: Array) -> Any:
    return jax.tree.map(lambda x: x[rows], carried)
