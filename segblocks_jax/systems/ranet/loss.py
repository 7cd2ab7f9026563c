"""The loss of RANet: the sum of its exits' cross-entropies."""

from collections.abc import Sequence

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


def exit_losses(
    logits: Sequence[Float[Array, "n k"]], labels: Int[Array, "n"]
) -> Float[Array, "exits"]:
    """The mean cross-entropy of each exit, in nats, in float32 or wider; the loss is their sum."""
    together = jnp.stack(logits)
    wide = together.astype(jnp.promote_types(together.dtype, jnp.float32))
    entropy = optax.softmax_cross_entropy_with_integer_labels(wide, labels[None])
    return entropy.mean(1)
