"""Gradients for discrete decisions: REINFORCE, supervision by what each is worth, straight-through."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from segblocks_jax.errors import InputError

_MIN_COST = 1e-6  # Nats. Below, all blocks are alike.
_EPS = 1e-8  # Added to both logarithms of a Gumbel number, as published networks were trained.


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


@jax.named_scope("gumbel_sigmoid")
def gumbel_sigmoid(
    logits: Float[Array | np.ndarray, "..."],
    u1: Float[Array | np.ndarray, "..."] | None,
    u2: Float[Array | np.ndarray, "..."] | None,
    temperature: float | int | Float[Array, ""],
) -> Float[Array, "..."]:
    """Decisions 0 or 1, drawn by Gumbel noise, with the gradient of the sigmoid that they are rounded from.

    With ``g(u) = -log(-log(u + 1e-8) + 1e-8)`` and ``y = sigmoid((logits + g(u1) - g(u2)) / temperature)``, the
    decision is 1 where y is at least 0.5; its gradient is that of y (straight-through).

    Args:
        logits: the larger, the likelier is 1.
        u1: uniform in [0, 1), of the logits' shape; None: no noise.
        u2: the same, independent of u1.
        temperature: above 0; the lower, the steeper y.

    Raises:
        InputError: only one of u1 and u2, or of another shape; or a temperature that isn't above 0.

    Source: Jang, Gu and Poole (arXiv 1611.01144), Maddison, Mnih and Teh (arXiv 1611.00712); the binary case as in
    Verelst and Tuytelaars (arXiv 1912.03203).
    """
    if not isinstance(temperature, jax.core.Tracer) and not float(temperature) > 0:
        raise InputError(f"gumbel_sigmoid: temperature is {temperature}; expected a number above 0")
    if (u1 is None) != (u2 is None):
        raise InputError("gumbel_sigmoid: only one of u1 and u2 is None; give both, or neither")
    logits = jnp.asarray(logits)
    # The tails of noise need more digits than bfloat16 has.
    wide = np.promote_types(logits.dtype, np.float32)
    noisy = logits.astype(wide)
    if u1 is not None and u2 is not None:
        for name, u in (("u1", u1), ("u2", u2)):
            if u.shape != logits.shape:
                raise InputError(
                    f"gumbel_sigmoid: {name} has shape {u.shape}; expected that of logits, {logits.shape}"
                )
        first, second = (_gumbel(jnp.asarray(u, wide)) for u in (u1, u2))
        noisy = noisy + first - second
    y = jax.nn.sigmoid(noisy / jnp.asarray(temperature, wide))
    hard = (y >= 0.5).astype(logits.dtype)
    y = y.astype(logits.dtype)
    return hard + (y - jax.lax.stop_gradient(y))  # The second term is 0, exactly.


def _gumbel(u: Float[Array, "..."]) -> Float[Array, "..."]:
    return -jnp.log(-jnp.log(u + _EPS) + _EPS)
