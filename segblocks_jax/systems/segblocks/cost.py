"""Multiply-adds of a network and its policy at the sizes and shares of an experiment."""

from typing import Any

import jax
from flax import nnx

from segblocks_jax.adaptive.cost import Macs, count_macs
from segblocks_jax.nn import scaled_multiple, scaled_size
from segblocks_jax.systems.segblocks.config import ExperimentConfig


def image_macs(
    system: nnx.Dict, config: ExperimentConfig, size: tuple[int, int], share: float | None
) -> Macs:
    """Of one image of a padded size, (height, width), at a share of high blocks."""
    return count_macs(
        system.net,
        (1, *scaled_size(size, config.model.input_scale), 3),
        share,
        policy=system.policy if "policy" in system else None,
        low_factor=config.policy.low_factor,
    )


def count(
    system: nnx.Dict, config: ExperimentConfig, size: tuple[int, int], share: float | None
) -> dict[str, Any]:
    """Parameters, and multiply-adds by part of one image of a size, which is padded here; for JSON."""
    scale = config.model.input_scale
    multiple = system.policy.block_size if "policy" in system else scaled_multiple(scale)
    height, width = (-(-side // multiple) * multiple for side in size)
    macs = image_macs(system, config, (height, width), share)
    leaves = jax.tree.leaves(nnx.state(system, nnx.Param))
    return {
        "parameters": sum(leaf.size for leaf in leaves),
        "gmacs_by_part": {name: value / 1e9 for name, value in macs.by_part.items()},
        "size": list(scaled_size((height, width), scale)),
    }
