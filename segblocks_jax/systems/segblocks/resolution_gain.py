"""The loss of every block if all blocks run at one resolution, and the gain of running high."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax.blocks import combine, split
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.tasks.segmentation.losses import block_mean, cross_entropy_map


def block_grid(image: Float[Array, "n h w 3"], config: ExperimentConfig) -> tuple[int, int, int]:
    """(n, gh, gw) of an image batch."""
    n, h, w, _ = image.shape
    return n, h // config.policy.block_size, w // config.policy.block_size


def uniform_block_loss(
    system: nnx.Dict,
    image: Float[Array, "n h w 3"],
    label: Array,
    config: ExperimentConfig,
    *,
    high: bool,
) -> Float[Array, "n gh gw"]:
    """The mean loss of every block when all blocks run high, or all low."""
    mask = jnp.full(block_grid(image, config), high)
    blocks = split(
        image.astype(config.precision),
        mask,
        num_high=mask.size * high,
        low_factor=config.policy.low_factor,
    )
    logits = combine(system.net(blocks), config.semantics.low_upsampling)
    loss_map, valid = cross_entropy_map(logits, label)
    _, gh, gw = mask.shape
    return block_mean(loss_map, valid, (gh, gw), ignored=config.semantics.ignored)[0]


def resolution_gain(
    system: nnx.Dict, image: Float[Array, "n h w 3"], label: Array, config: ExperimentConfig
) -> Float[Array, "n gh gw"]:
    """How much a block's mean loss falls when all blocks run high instead of low."""
    low, high = (
        uniform_block_loss(system, image, label, config, high=high) for high in (False, True)
    )
    return low - high
