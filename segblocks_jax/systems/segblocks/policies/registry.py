"""create: policies by name."""

from flax import nnx

from segblocks_jax.errors import InvalidInputError
from segblocks_jax.systems.segblocks.policies.reinforce import Reinforce
from segblocks_jax.systems.segblocks.policies.rules import (
    Constant,
    Heuristic,
    Middle,
    Oracle,
    Random,
    Rule,
)

_RULES = {"random": Random, "middle": Middle, "heuristic": Heuristic, "oracle": Oracle}
_CONSTANTS = {"all_high": 1.0, "all_low": 0.0}
POLICIES = ("reinforce", *_RULES, *_CONSTANTS)

Policy = Reinforce | Rule


def create(
    name: str,
    *,
    block_size: int = 128,
    target: float = 0.4,
    threshold: float | None = None,
    rngs: nnx.Rngs | None = None,
) -> Policy:
    """Builds a policy.

    Args:
        name: one of `POLICIES`.
        block_size: side of a block in image pixels.
        target: share of blocks to run high; the constant policies ignore it.
        threshold: for heuristic and oracle: high above this score, in place of the target.
        rngs: for reinforce: its stream `params` initializes the network.

    Raises:
        ValueError: unknown name, or a share outside [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> middle = create("middle", block_size=64, target=0.5)
        >>> middle(jnp.zeros((1, 256, 64, 3))).action[0, :, 0].tolist()
        [False, True, True, False]
    """
    if name not in POLICIES:
        raise InvalidInputError(
            f"policies.create: no policy {name!r}; expected one of {', '.join(POLICIES)}"
        )
    if not 0 <= target <= 1:
        raise InvalidInputError(
            f"policies.create: target is {target}; expected a share from 0 to 1"
        )
    if threshold is not None and name not in ("heuristic", "oracle"):
        raise InvalidInputError(
            f"policies.create: {name} has no threshold; only heuristic and oracle do"
        )
    if name == "reinforce":
        return Reinforce(block_size, target, rngs=rngs or nnx.Rngs(0))
    if name in _CONSTANTS:
        return Constant(block_size, _CONSTANTS[name])
    return _RULES[name](block_size, target, threshold)
