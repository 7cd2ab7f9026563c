"""What training steps share: gradients over devices and parts, and executables that are compiled when needed.

A device runs its examples part by part, under `jax.shard_map` over `AXIS`. Part j holds the examples j, j + k,
j + 2k, ..., on any number of devices.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array

from segblocks_jax.errors import InputError
from segblocks_jax.nn import image_keys
from segblocks_jax.training.config import BaseOptimConfig
from segblocks_jax.training.sharding import AXIS
from segblocks_jax.training.state import TrainState, averaged, is_float

Metrics = dict[str, Array]
Loss = Callable[[nnx.State, nnx.State, Any], tuple[Array, tuple[nnx.State, Metrics]]]


def examples_per_part(config: BaseOptimConfig, mesh: Mesh) -> int:
    """Number of examples that a device runs at a time; ValueError where the batch doesn't divide."""
    if config.batch_size % (mesh.size * config.accumulate):
        raise InputError(
            f"optim.batch_size is {config.batch_size}; expected a multiple of the {mesh.size} devices"
            + (f" times optim.accumulate, {config.accumulate}" if config.accumulate > 1 else "")
        )
    return config.batch_size // mesh.size // config.accumulate


def example_keys(state: TrainState, count: int) -> Array:
    """A PRNG key for each of a device's `count` examples, by its number in the batch of all devices."""
    key = jax.random.fold_in(state.key, state.step)
    first = jax.lax.axis_index(AXIS) * count
    return image_keys(key, first + jnp.arange(count))


def over_parts(run: Any, carry: Any, tree: Any, count: int) -> tuple[Any, Any]:
    """`jax.lax.scan` of ``carry, out = run(carry, part)`` over `count` parts of a device's examples."""
    if count == 1:  # Without a loop: inside one XLA's CPU convolutions are several times slower.
        carry, out = run(carry, tree)
        return carry, jax.tree.map(lambda x: x[None], out)
    split = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), tree)
    return jax.lax.scan(run, carry, split)


def join_parts(tree: Any) -> Any:
    """What `over_parts` gave for each example, in the examples' order."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)


def mean_gradient(
    loss: Loss, state: TrainState, examples: Any, config: BaseOptimConfig
) -> tuple[nnx.State, nnx.State, Metrics]:
    """The mean of a loss's gradient, and of its metrics, over all parts and devices.

    Args:
        loss: ``(params, stats, part) -> (loss, (new stats, metrics))``.
        state: to take the gradient at. Each part goes on from the statistics that the one before left.
        examples: this device's, a tree of arrays.
        config: says the number of parts, and whether batch norms are synchronized, else statistics are averaged.

    Returns:
        The gradient, the statistics, the metrics.
    """

    def add(carry: tuple, part: Any) -> tuple[tuple, Metrics]:
        stats, total = carry
        gradient = jax.grad(lambda params: loss(params, stats, part), has_aux=True)
        grads, (stats, metrics) = gradient(state.params)
        return (stats, jax.tree.map(jnp.add, total, grads)), metrics

    nothing = jax.tree.map(jnp.zeros_like, state.params)
    (stats, total), parts = over_parts(add, (state.stats, nothing), examples, config.accumulate)
    grads = jax.tree.map(lambda x: x / config.accumulate, total)
    metrics = jax.tree.map(lambda x: x.mean(0), parts)
    grads, metrics = jax.lax.pmean((grads, metrics), AXIS)
    if not config.sync_batch_norm:
        stats = jax.tree.map(lambda x: jax.lax.pmean(x, AXIS) if is_float(x) else x, stats)
    return grads, stats, metrics


def apply_gradient(
    optimizer: optax.GradientTransformation,
    state: TrainState,
    grads: nnx.State,
    stats: nnx.State,
    ema: float | None = None,
) -> TrainState:
    """The state after a step; `ema` is the decay of the averages that it keeps, if it does."""
    with jax.numpy_dtype_promotion("standard"):  # Adam's bias correction mixes types.
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    after = dataclasses.replace(
        state,
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        stats=stats,
        opt_state=opt_state,
    )
    return averaged(after, ema)


_CACHE_HIT = "/jax/compilation_cache/cache_hits"
Report = Callable[[str], None]
K = TypeVar("K")


class Programs(Generic[K]):
    """Executables of a `function` of `jax.jit` whose last argument is static.

    `names` says in words what an executable is. `report` gets a line for each compilation: what, why, how long,
    and whether the persistent cache had it.
    """

    def __init__(self, function: Any, names: Callable[[K], str], report: Report) -> None:
        self.function, self._names, self._report = function, names, report
        self._programs: dict[K, jax.stages.Compiled] = {}

    @property
    def compiled(self) -> set[K]:
        """The static values that there is an executable for."""
        return set(self._programs)

    def get(self, static: K, why: str, arguments: tuple) -> jax.stages.Compiled:
        """The executable for a static value; `why` says in words why it is needed, should it not be there yet.

        `arguments` are the function's but for the last; `jax.ShapeDtypeStruct` will do.
        """
        if static not in self._programs:
            began = time.monotonic()
            with _cache_hits() as hits:
                self._programs[static] = self.function.lower(*arguments, static).compile()
            source = "read from the compilation cache" if hits else "compiled"
            seconds = time.monotonic() - began
            self._report(f"{source} {self._names(static)} in {seconds:.1f} s: {why}")
        return self._programs[static]


@contextmanager
def _cache_hits() -> Iterator[list[str]]:
    hits: list[str] = []

    def listen(event: str, **_: Any) -> None:
        if event == _CACHE_HIT:
            hits.append(event)

    jax.monitoring.register_event_listener(listen)
    try:
        yield hits
    finally:
        jax.monitoring.unregister_event_listener(listen)
