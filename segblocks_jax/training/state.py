"""The system that is trained, a network and its policy, and the state of a training run."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int

from segblocks_jax import models, policies
from segblocks_jax.blocks.checks import no_type_check
from segblocks_jax.training.config import ExperimentConfig


def create_system(config: ExperimentConfig, num_classes: int) -> nnx.Dict:
    """Builds the network and, unless the experiment is static, the policy: ``{"net", "policy"}``.

    Raises:
        ValueError: the blocks are too small for the network.
    """
    rngs = nnx.Rngs(config.seed)
    net = models.create_model(
        config.model.name,
        num_classes,
        semantics=config.semantics,
        width=config.model.width,
        features=config.model.features,
        rngs=rngs,
    )
    if config.policy.name == "static":
        return nnx.Dict(net=net)
    side = config.policy.block_size
    if side % net.min_block_size:
        raise ValueError(
            f"policy.block_size is {side}, but {config.model.name} needs a multiple of"
            f" {net.min_block_size}, so that a low block has whole pixels at every layer"
        )
    policy = policies.create(
        config.policy.name, block_size=side, target=config.policy.target, rngs=rngs
    )
    return nnx.Dict(net=net, policy=policy)


@jax.tree_util.register_dataclass
@no_type_check
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a checkpoint holds.

    Attributes:
        step: optimiser steps done.
        params: parameters of network and policy.
        stats: running statistics.
        opt_state: of the optimiser.
        key: PRNG key; a step uses `fold_in(key, step)`.
    """

    step: Int[Array, ""]
    params: nnx.State
    stats: nnx.State
    opt_state: optax.OptState
    key: Array


def create_state(
    system: nnx.Dict, optimizer: optax.GradientTransformation, seed: int
) -> tuple[nnx.GraphDef, TrainState]:
    """Splits a system into its static structure and the state to train."""
    graphdef, *states = nnx.split(system, nnx.Param, nnx.BatchStat)
    params, stats = states
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        stats=stats,
        opt_state=optimizer.init(params),
        key=jax.random.key(seed),
    )
    return graphdef, state
