"""The loss of RANet: the sum of its exits' cross-entropies."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from segblocks_jax.tasks.classification.losses import cross_entropy


def exit_losses(
    logits: Sequence[Float[Array, "n k"]], labels: Int[Array, "n"], smoothing: float = 0.0
) -> Float[Array, "exits"]:
    """The mean cross-entropy of each exit, in nats; the loss is their sum."""
    return jnp.stack([cross_entropy(exit, labels, smoothing).mean() for exit in logits])
