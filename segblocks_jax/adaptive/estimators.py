"""Gradients for discrete decisions: the REINFORCE estimate, and supervision by what each decision is worth."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_MIN_COST = 1e-6  # Nats. Below, all blocks are alike.


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


@jax.named_scope("policy_loss")
def regret_loss(
    logits: Float[Array, "n gh gw"],
    gain: Float[Array, "n gh gw"],
    known: Bool[Array, "n gh gw"],
    target: float,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Logistic loss of telling the `target` share of largest gains from the others, weighted by what an error costs.

    With q the gain that this share of the known blocks exceeds, block b belongs to the high ones where
    ``gain_b > q``, and choosing wrongly for it costs ``|gain_b - q|``. Weights have the mean 1.

    Args:
        logits: of running high.
        gain: what running high is worth.
        known: blocks that count; without one the loss is 0.
        target: share, from 0 to 1.
        axis_name: mapped axis over whose devices q and means are taken.

    Source: cost-sensitive classification, as in Zadrozny, Langford and Abe, "Cost-sensitive learning by
    cost-proportionate example weighting" (2003).
    """
    gains = jnp.where(known, gain, jnp.nan)
    every = gains if axis_name is None else jax.lax.all_gather(gains, axis_name)
    bound = jnp.nanquantile(every, 1 - target)
    costs = jnp.abs(every - bound)
    mean = jnp.maximum(jnp.where(jnp.isnan(costs), 0.0, costs).mean(), _MIN_COST)
    weight = jnp.where(known, jnp.abs(gain - bound) / mean, 0.0)
    wrong = jax.nn.softplus(jnp.where(gain > bound, -logits, logits))
    return (jax.lax.stop_gradient(weight) * wrong).mean()


def entropy(logits: Float[Array, "n gh gw"]) -> Float[Array, "n gh gw"]:
    """Entropy of every block's decision in nats, from 0 to log 2: ``-p log p - (1 - p) log(1 - p)``."""
    return jax.nn.softplus(logits) - logits * jax.nn.sigmoid(logits)
