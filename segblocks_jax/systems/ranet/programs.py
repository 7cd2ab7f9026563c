"""Compiled programs of a RANet for serving: one per stage and number of images, and what picks images."""

import abc
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
Shapes = tuple[jax.ShapeDtypeStruct, ...]


class CompiledPrograms(abc.ABC):
    """Programs that are compiled when first needed, and kept."""

    def __init__(self) -> None:
        """Compiles nothing yet."""
        self._compiled: KeyedCache[Program, jax.stages.Compiled] = KeyedCache()

    @abc.abstractmethod
    def leaves(self, stage: int) -> Sequence[Array]:
        """The weights of a stage."""

    @abc.abstractmethod
    def carried(self, stage: int, count: int) -> Shapes:
        """Shapes and dtypes of what a stage takes of `count` images: of the first, those images, uint8."""

    @abc.abstractmethod
    def function(self, stage: int) -> Callable[[Sequence[Array], Any], Any]:
        """A stage as a function of its weights' leaves and what is carried, to be traced within `tracing`.

        It gives probabilities (n, classes) and what it carries on.
        """

    def tracing(self) -> contextlib.AbstractContextManager[None]:
        """The context that programs are traced in."""
        return contextlib.nullcontext()

    @property
    def compilations(self) -> int:
        """How many programs were compiled."""
        return self._compiled.made

    def get(self, program: Program) -> tuple[Callable[..., Any], bool]:
        """The compiled program as a function of what is carried, and whether this call compiled it.

        Those that pick images take their rows, too.
        """
        compiled, made = self._compiled.get(program, lambda: self._compile(program))
        if program.before:
            return compiled, made
        leaves = self.leaves(program.stage)
        return (lambda carried: compiled(leaves, carried)), made

    def _compile(self, program: Program) -> jax.stages.Compiled:
        with self.tracing():
            if program.before:
                rows = jax.ShapeDtypeStruct((program.count,), jnp.int32)
                given = self.carried(program.stage, program.before)
                return jax.jit(_pick).lower(given, rows).compile()
            leaves, given = self.leaves(program.stage), self.carried(program.stage, program.count)
            return jax.jit(self.function(program.stage)).lower(leaves, given).compile()


def _pick(carried: tuple[Array, ...], rows: Array) -> tuple[Array, ...]:
    return tuple(x[rows] for x in carried)


class StagePrograms(CompiledPrograms):
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
        """Takes copies of the weights, in evaluation mode, prepared for the execution."""
        super().__init__()
        compiled = jax.default_backend() == "cpu" and extension.resolve() == "ffi"
        self.size, self._normalization = size, normalization
        self.execution: Execution = execution or ("fused" if compiled else "plain")
        kind = FusedStages if self.execution == "fused" else PlainStages
        with self.tracing():
            self._stages: Stages = kind(net, size)
        self._leaves = [jax.tree.leaves(weights) for weights in self._stages.weights]
        self._shapes: dict[tuple[int, Any], Shapes] = {}

    def tracing(self) -> contextlib.AbstractContextManager[None]:
        """See `CompiledPrograms`."""
        return extension.using({"fused": "ffi", "xla": "xla"}.get(self.execution))

    def leaves(self, stage: int) -> Sequence[Array]:
        """See `CompiledPrograms`."""
        return self._leaves[stage]

    def carried(self, stage: int, count: Any) -> Shapes:
        """See `CompiledPrograms`; the count may be symbolic."""
        if stage == 0:
            return (jax.ShapeDtypeStruct((count, *self.size, 3), jnp.uint8),)
        key = stage, count
        if key not in self._shapes:
            before = self.carried(stage - 1, count)
            _, kept = jax.eval_shape(self.function(stage - 1), self._leaves[stage - 1], before)
            self._shapes[key] = kept
        return self._shapes[key]

    def function(self, stage: int) -> Callable[[Sequence[Array], Any], Any]:
        """See `CompiledPrograms`."""
        structure = jax.tree.structure(self._stages.weights[stage])

        def run(leaves: Sequence[Array], carried: Any) -> Any:
            if stage == 0:
                carried = (normalize(carried[0], *self._normalization),)
            weights = jax.tree.unflatten(structure, leaves)
            logits, kept = self._stages.run(stage, weights, carried)
            return jax.nn.softmax(logits.astype(jnp.float32)), kept

        return run
