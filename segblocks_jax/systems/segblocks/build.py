"""The system of an experiment: its network and its policy, and the spec that builds them."""

import dataclasses

from flax import nnx

from segblocks_jax.data import Normalization
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.systems.segblocks.spec import ModelSpec, PolicySpec
from segblocks_jax.tasks.segmentation.labels import LabelTable


def model_spec(config: ExperimentConfig, num_classes: int) -> ModelSpec:
    """The spec of an experiment: what builds its system, and how its decisions run."""
    policy = config.policy
    return ModelSpec(
        name=config.model.name,
        num_classes=num_classes,
        width=config.model.width,
        features=config.model.features,
        dilations=config.model.dilations,
        semantics=config.semantics,
        policy=None
        if policy.kind is None
        else PolicySpec(
            name=policy.name,
            block_size=policy.block_size,
            target=policy.target,
            bucket_step=policy.bucket_step,
            low_factor=policy.low_factor,
        ),
        dataset=config.data.dataset,
        input_scale=config.model.input_scale,
    )


def complete_spec(
    config: ExperimentConfig, table: LabelTable, normalization: Normalization
) -> ModelSpec:
    """`model_spec` with all that serving needs: class names and the constants of the images."""
    return dataclasses.replace(
        model_spec(config, len(table.classes)),
        class_names=table.classes,
        mean=normalization.mean,
        std=normalization.std,
    )


def create_system(config: ExperimentConfig, num_classes: int) -> nnx.Dict:
    """Builds the network and, unless the experiment is static, the policy: ``{"net", "policy"}``.

    Raises:
        ValueError: the blocks are too small for the network.
    """
    spec = model_spec(config, num_classes)
    return spec.build(nnx.Rngs(config.seed), dropout=config.model.dropout)
