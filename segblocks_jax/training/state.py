"""The state of a training run and its optimizer: Adam or SGD, a schedule and a multiplier per part."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int

from segblocks_jax.ops import no_type_check
from segblocks_jax.training.config import BaseOptimConfig, OptimConfig, StagedOptimConfig

# The seed's key folded with 0, 1, ... gives the weights; this number they never reach.
_STEPS = 2**32 - 1


@jax.tree_util.register_dataclass
@no_type_check
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a checkpoint holds."""

    step: Int[Array, ""]  # Optimizer steps done.
    params: nnx.State  # Parameters of the modules.
    stats: nnx.State  # Their other variables: running statistics.
    opt_state: optax.OptState
    key: Array  # PRNG key; a step uses `fold_in(key, step)`.
    average: tuple[nnx.State, nnx.State] | None = None  # Of params and stats, see `averaged`.

    @property
    def served(self) -> tuple[nnx.State, nnx.State]:
        """Params and stats that are evaluated and exported: their averages where they are kept."""
        return self.average or (self.params, self.stats)


def create_state(
    modules: nnx.Module,
    optimizer: optax.GradientTransformation,
    seed: int,
    *,
    average: bool = False,
) -> tuple[nnx.GraphDef, TrainState]:
    """Splits modules into their static structure and the state to train, with averages if they are wanted."""
    graphdef, *states = nnx.split(modules, nnx.Param, ...)
    params, stats = states
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        stats=stats,
        opt_state=optimizer.init(params),
        key=jax.random.fold_in(jax.random.key(seed), _STEPS),
        # Copies: a step is given all of the state's arrays to reuse, each once.
        average=jax.tree.map(jnp.copy, (params, stats)) if average else None,
    )
    return graphdef, state


def averaged(state: TrainState, decay: float | None) -> TrainState:
    """The state with averages that have taken in its params and stats: ``a = d * a + (1 - d) * x``.

    d is ``min(decay, (1 + t) / (10 + t))`` after step t = 1, 2, ..., so that the random or foreign weights of the
    start are soon forgotten, also in short schedules. None keeps no averages.

    Running statistics are averaged like weights: the last step's belong to the last step's weights, and are means
    over few batches.
    """
    if decay is None:
        return state
    step = state.step.astype(jnp.float32)
    rest = 1 - jnp.minimum(decay, (1 + step) / (10 + step))

    def mixed(new: Array, old: Array) -> Array:
        return rest * new + (1 - rest) * old if is_float(new) else new

    average = jax.tree.map(mixed, (state.params, state.stats), state.average)
    return dataclasses.replace(state, average=average)


def is_float(x: Array) -> bool:
    """Whether it is no counter and no PRNG key, such as those of a network's dropout."""
    return jnp.issubdtype(x.dtype, jnp.floating)


Multipliers = Mapping[str, float]
"""Factors by a part's path in the modules, such as "net/backbone"; 1 elsewhere."""


def create_optimizer(
    config: BaseOptimConfig, multipliers: Multipliers
) -> optax.GradientTransformation:
    """The published recipe: ``g += decay * m * p``, then Adam or SGD, then ``p -= rate(step) * m * update``.

    The multiplier of the part is m.
    """
    parts = {"": 1.0, **multipliers}

    def label(path: tuple, _: Any) -> str:
        name = jax.tree_util.keystr(path, simple=True, separator="/") + "/"
        return max((part for part in parts if name.startswith(part and part + "/")), key=len)

    def each(transform: Any) -> optax.GradientTransformation:
        own = {part: transform(multiplier) for part, multiplier in parts.items()}
        return optax.partition(own, lambda tree: jax.tree.map_with_path(label, tree))

    chain = optax.chain(
        each(lambda m: optax.add_decayed_weights(config.weight_decay * m)),
        _direction(config),
        each(optax.scale),
        optax.scale_by_learning_rate(learning_rate(config)),
    )
    return optax.GradientTransformation(chain.init, jax.named_scope("optimizer")(chain.update))


def _direction(config: BaseOptimConfig) -> optax.GradientTransformation:
    if isinstance(config, StagedOptimConfig) and config.optimizer == "sgd":
        return optax.trace(config.momentum, config.nesterov)
    assert isinstance(config, OptimConfig | StagedOptimConfig)
    return optax.scale_by_adam(config.b1, config.b2)


def learning_rate(config: BaseOptimConfig) -> optax.Schedule:
    """By step, from 0: a cosine from `learning_rate` to `final_learning_rate`, or as `StagedOptimConfig` says."""
    rate, steps = config.learning_rate, config.steps
    if not isinstance(config, StagedOptimConfig):
        assert isinstance(config, OptimConfig)
        return optax.cosine_decay_schedule(rate, steps, alpha=config.final_learning_rate / rate)
    if config.schedule == "cosine":
        course = optax.cosine_decay_schedule(rate, steps)
    else:
        bounds = [round(share * steps) for share in config.milestones]
        rates = [rate * config.gamma**i for i in range(len(bounds) + 1)]
        course = optax.join_schedules([optax.constant_schedule(r) for r in rates], bounds)
    if not config.warmup:
        return course
    return lambda count: course(count) * jnp.minimum(1.0, (count + 1) / config.warmup)
