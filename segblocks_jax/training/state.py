"""The system that is trained, a network and its policy, and the state of a training run."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int

from segblocks_jax.blocks.checks import no_type_check
from segblocks_jax.data import LabelTable, Normalisation
from segblocks_jax.interop import ModelSpec, PolicySpec
from segblocks_jax.nn import Dropout
from segblocks_jax.nn.conv import set_implementation
from segblocks_jax.training.config import ExperimentConfig


def model_spec(config: ExperimentConfig, num_classes: int) -> ModelSpec:
    """What of an experiment builds its system, and says how its decisions run."""
    policy = config.policy
    return ModelSpec(
        name=config.model.name,
        num_classes=num_classes,
        width=config.model.width,
        features=config.model.features,
        dilations=config.model.dilations,
        semantics=config.semantics,
        policy=None
        if policy.name == "static"
        else PolicySpec(
            name=policy.name,
            block_size=policy.block_size,
            target=policy.target,
            quantise_step=policy.quantise_step,
            low_factor=policy.low_factor,
        ),
        dataset=config.data.dataset,
        input_scale=config.model.input_scale,
    )


def complete_spec(
    config: ExperimentConfig, table: LabelTable, normalisation: Normalisation
) -> ModelSpec:
    """`model_spec` with all that serving needs: class names and the constants of the images."""
    return dataclasses.replace(
        model_spec(config, len(table.classes)),
        class_names=table.classes,
        mean=normalisation.mean,
        std=normalisation.std,
    )


def create_system(config: ExperimentConfig, num_classes: int) -> nnx.Dict:
    """Builds the network and, unless the experiment is static, the policy: ``{"net", "policy"}``.

    Raises:
        ValueError: the blocks are too small for the network.
    """
    system = model_spec(config, num_classes).build(nnx.Rngs(config.seed))
    set_implementation(system, config.model.conv_implementation)
    for _, part in nnx.iter_graph(system):
        if isinstance(part, Dropout):
            part.rate *= config.model.dropout
    return system


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
