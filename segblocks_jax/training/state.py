"""The state of a training run."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int

from segblocks_jax.ops.checks import no_type_check

# The seed's key folded with 0, 1, ... gives the weights; this number they never reach.
_STEPS = 2**32 - 1


@jax.tree_util.register_dataclass
@no_type_check
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a checkpoint holds.

    Attributes:
        step: optimizer steps done.
        params: parameters of the modules.
        stats: their other variables: running statistics.
        opt_state: of the optimizer.
        key: PRNG key; a step uses `fold_in(key, step)`.
    """

    step: Int[Array, ""]
    params: nnx.State
    stats: nnx.State
    opt_state: optax.OptState
    key: Array


def create_state(
    modules: nnx.Module, optimizer: optax.GradientTransformation, seed: int
) -> tuple[nnx.GraphDef, TrainState]:
    """Splits modules into their static structure and the state to train."""
    graphdef, *states = nnx.split(modules, nnx.Param, ...)
    params, stats = states
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        stats=stats,
        opt_state=optimizer.init(params),
        key=jax.random.fold_in(jax.random.key(seed), _STEPS),
    )
    return graphdef, state
