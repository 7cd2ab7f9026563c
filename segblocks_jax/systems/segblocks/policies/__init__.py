"""Policies: who decides which blocks run at high resolution, and how a learned one is trained."""

from typing import Any

from flax import nnx

from segblocks_jax.errors import InputError
from segblocks_jax.systems.segblocks.policies import policy
from segblocks_jax.systems.segblocks.policies.policy import Policy
from segblocks_jax.systems.segblocks.policies.reinforce import Reinforce
from segblocks_jax.systems.segblocks.policies.reward import Advantage, Reward, advantage

__all__ = [
    "CHOICES",
    "POLICIES",
    "Advantage",
    "Policy",
    "Reinforce",
    "Reward",
    "advantage",
    "create",
    "policy_type",
]

_TYPES: dict[str, type[Policy]] = {
    "reinforce": Reinforce,
    "random": policy.Random,
    "middle": policy.Middle,
    "heuristic": policy.Heuristic,
    "oracle": policy.Oracle,
    "all_high": policy.AllHigh,
    "all_low": policy.AllLow,
}
_NONE = "static"  # How a configuration says that there is no policy, nor blocks.
POLICIES = tuple(_TYPES)
CHOICES = (_NONE, *POLICIES)
"""What a configuration may name."""


def policy_type(name: str) -> type[Policy] | None:
    """The class of a policy, which says what it needs; None for "static", the network without one.

    Raises:
        ValueError: unknown name.
    """
    if name not in CHOICES:
        raise InputError(f"policies: no policy {name!r}; expected one of {', '.join(CHOICES)}")
    return _TYPES.get(name)


def create(
    name: str,
    *,
    block_size: int = 128,
    target: float = 0.4,
    threshold: float | None = None,
    features: int | None = None,
    rngs: nnx.Rngs | None = None,
) -> Policy:
    """Builds a policy.

    Args:
        name: one of `POLICIES`.
        block_size: side of a block in image pixels.
        target: share of blocks to run high; the constant policies ignore it.
        threshold: for heuristic and oracle: high above this score, in place of the target.
        features: for reinforce: channels of its network, 64 by default.
        rngs: for reinforce: its stream `params` initializes the network.

    Raises:
        ValueError: unknown name, a share outside [0, 1], or what the policy doesn't take.

    Example:
        >>> import jax.numpy as jnp
        >>> middle = create("middle", block_size=64, target=0.5)
        >>> middle(jnp.zeros((1, 256, 64, 3))).action[0, :, 0].tolist()
        [False, True, True, False]
    """
    if name not in _TYPES:
        raise InputError(
            f"policies.create: no policy {name!r}; expected one of {', '.join(POLICIES)}"
        )
    if not 0 <= target <= 1:
        raise InputError(f"policies.create: target is {target}; expected a share from 0 to 1")
    kind = _TYPES[name]
    given = {"threshold": threshold, "features": features}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for option in options.keys() - set(kind.options):
        known = " and ".join(name for name, other in _TYPES.items() if option in other.options)
        raise InputError(f"policies.create: {name} has no {option}; it is for {known}")
    if kind.learned:
        options["rngs"] = rngs or nnx.Rngs(0)
    return kind(block_size, target, **options)
