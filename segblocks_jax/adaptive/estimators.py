"""Gradient estimators of discrete decisions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


@jax.named_scope("policy_loss")
def surrogate_loss(
    logits: Float[Array, "n gh gw"],
    mask: Bool[Array, "n gh gw"],
    total_advantage: Float[Array, "n gh gw"],
    forced: Bool[Array, "n gh gw"] | None = None,
) -> Float[Array, ""]:
    """``-mean(log p(mask) * stop_gradient(advantage))``: its gradient is the REINFORCE estimate.

    Blocks that rounding turned, `forced`, carry no gradient; `total_advantage` is `policies.Advantage.total`.
    """
    log_probability = -jax.nn.softplus(jnp.where(mask, -logits, logits))
    weighted = log_probability * jax.lax.stop_gradient(total_advantage)
    if forced is not None:
        weighted = jnp.where(forced, 0.0, weighted)
    return -weighted.mean()


def entropy(logits: Float[Array, "n gh gw"]) -> Float[Array, "n gh gw"]:
    """Entropy of every block's decision in nats, from 0 to log 2: ``-p log p - (1 - p) log(1 - p)``."""
    return jax.nn.softplus(logits) - logits * jax.nn.sigmoid(logits)
