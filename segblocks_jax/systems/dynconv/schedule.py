"""How decisions are drawn in the course of a training: temperature and noise, and noise of an image's own keys."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from segblocks_jax import nn
from segblocks_jax.systems.dynconv.config import MaskConfig
from segblocks_jax.systems.dynconv.execution import Noise

_SILENT = math.exp(-1)  # Its Gumbel number is 0.
Progress = Float[Array, ""]


def temperature(config: MaskConfig, progress: Progress) -> Float[Array, ""]:
    """At a share of all steps; a milestone belongs to the span that begins there."""
    values = jnp.asarray(config.temperature, jnp.float32)
    passed = sum(
        ((progress >= milestone).astype(jnp.int32) for milestone in config.temperature_milestones),
        jnp.int32(0),
    )
    return values[passed]


def image_noise(keys: Key[Array, "..."], config: MaskConfig, progress: Progress) -> Noise:
    """Uniform numbers by each image's own key, the same in any batch; without effect behind `noise_until`.

    Args:
        keys: an image's each.
        config: says when the noise ends.
        progress: share of all steps that are done.
    """

    def noise(number: int, shape: tuple[int, ...]) -> tuple[Array, Array]:
        silent = progress > config.noise_until
        drawn = (nn.uniform(nn.fold_in(keys, 2 * number + i), shape) for i in range(2))
        u1, u2 = (jnp.where(silent, jnp.float32(_SILENT), u) for u in drawn)
        return u1, u2

    return noise
