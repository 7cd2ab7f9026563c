"""Decision: which blocks a policy wants high, and the scores by which rounding adds more."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from segblocks_jax.exact import count_of
from segblocks_jax.nn import uniform
from segblocks_jax.ops import no_type_check


@jax.tree_util.register_dataclass
@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Decision:
    """Which blocks a policy wants at high resolution.

    Attributes:
        action: (n, gh, gw) bool, True = high.
        scores: (n, gh, gw) float; the higher, the sooner a block is turned high by rounding. A learned
            policy's logits.
        low_loss: (n, gh, gw) block losses with all blocks low, inf on steps without that run; None where
            the reward doesn't need them.
        gain: (n, gh, gw) by how much block losses fall when all run high instead of low, NaN on steps that don't
            measure it; None where the policy doesn't learn from it.
    """

    action: Bool[Array, "n gh gw"]
    scores: Float[Array, "n gh gw"]
    low_loss: Float[Array, "n gh gw"] | None = None
    gain: Float[Array, "n gh gw"] | None = None


def top_count(scores: Float[Array, "n gh gw"], count: int) -> Bool[Array, "n gh gw"]:
    """True for the `count` best-scored blocks of every image; ties go by grid position, NaN ranks last."""
    n, gh, gw = scores.shape
    order = jnp.argsort(-scores.reshape(n, gh * gw), axis=1, stable=True)
    rank = jnp.argsort(order, axis=1)
    return (rank < count).reshape(scores.shape)


def top_fraction(scores: Float[Array, "n gh gw"], fraction: float) -> Bool[Array, "n gh gw"]:
    """True for the ``count_of(fraction, gh * gw)`` best-scored blocks of every image."""
    _, gh, gw = scores.shape
    return top_count(scores, count_of(fraction, gh * gw))


def fill_scores(
    decision: Decision, filling: str, key: Array | None
) -> Float[Array | np.ndarray, "n gh gw"]:
    """Scores by which rounding turns blocks high: the decision's own, or random ones ("random")."""
    if filling == "best":
        return decision.scores
    if key is None:
        raise ValueError(
            "filling is 'random', which needs a PRNG key; pass key=jax.random.key(seed)"
        )
    return uniform(key, decision.scores.shape)
