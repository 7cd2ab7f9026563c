"""The reward of a learned policy, block by block, relative to the other blocks."""

import dataclasses
from collections.abc import Callable
from typing import Literal, get_args, get_type_hints

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from segblocks_jax.errors import InputError
from segblocks_jax.ops import no_type_check

_MIN_STD = 1e-6  # Nats. Below, all blocks are alike, and rounding would be what is normalized.


@no_type_check
@dataclasses.dataclass(frozen=True)
class Reward:
    """What a policy is rewarded for; the defaults are the authors'. docs/policies.md has the formulas.

    Attributes:
        target: share of high blocks.
        weight: of the sparsity term against the task term.
        kind: what a high block is worth. "loss": its loss, as where a network errs resolution may help;
            "gain": how far its loss lies below that of a run with all blocks low, known of high blocks.
        advantage: "plain", or "normalized": the task term is divided by its standard deviation over the batch.
        baseline: what the worth of a block is compared with: the mean over the "batch", or its "image".
        target_per: whether the share of high blocks is that of the "batch" or of each "image".
        gain_every: with "gain", every so many steps there is a task term, so many times as large.
    """

    target: float
    weight: float = 1.0
    kind: Literal["loss", "gain"] = "loss"
    advantage: Literal["plain", "normalized"] = "plain"
    baseline: Literal["batch", "image"] = "batch"
    target_per: Literal["batch", "image"] = "batch"
    gain_every: int = 1

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            value, known = getattr(self, name), get_args(kind)
            if known and value not in known:
                raise InputError(f"Reward: {name} is {value!r}; expected one of {known}")
        if self.gain_every < 1:
            raise InputError(f"Reward: gain_every is {self.gain_every}; expected 1 step or more")


@dataclasses.dataclass(frozen=True)
class Advantage:
    """The terms of the advantage of running a block as it ran, before the sign of its action.

    Attributes:
        task: (n, gh, gw) worth of a block minus the mean; 0 where it isn't known: without a valid pixel,
            and for "gain" where the block ran low.
        sparsity: (n,) target minus the share of high blocks.
        total: (n, gh, gw) what multiplies the log-probability: negated for low blocks.
    """

    task: Float[Array, "n gh gw"]
    sparsity: Float[Array, "n"]
    total: Float[Array, "n gh gw"]


@jax.named_scope("policy_loss")
def advantage(
    block_loss: Float[Array, "n gh gw"],
    has_valid: Bool[Array, "n gh gw"],
    mask: Bool[Array, "n gh gw"],
    reward: Reward,
    *,
    low_loss: Float[Array, "n gh gw"] | None = None,
    price: Float[Array, ""] | None = None,
    axis_name: str | None = None,
) -> Advantage:
    """Reward of the executed grid, relative to the other blocks.

    Args:
        block_loss: mean loss of the block's pixels.
        has_valid: False where a block has only ignored pixels; it neither gets nor gives reward.
        mask: the grid that ran.
        reward: how it is made.
        low_loss: for "gain": block losses with all blocks low; inf where they weren't computed.
        price: what a high block costs beside the sparsity term, where it is learned.
        axis_name: mapped axis over whose devices means of the batch are taken.

    Raises:
        ValueError: "gain" without `low_loss`.

    Source: SegBlocks (arXiv 2011.12025), section 3.4, for the defaults.
    """

    def total(values: Array) -> Array:
        return values.sum() if axis_name is None else jax.lax.psum(values.sum(), axis_name)

    worth, known, share = block_loss, has_valid, mask.astype(jnp.float32)
    if reward.kind == "gain":
        if low_loss is None:
            raise InputError(
                "advantage: reward 'gain' needs the losses of a low run; pass low_loss"
            )
        known = has_valid & mask & jnp.isfinite(low_loss)
        worth = jnp.where(known, low_loss - block_loss, 0.0)
    task = _centered(worth, known, reward.baseline, total)
    if reward.advantage == "normalized":
        count = jnp.maximum(total(known.astype(jnp.float32)), 1)
        task = task / jnp.maximum(jnp.sqrt(total(jnp.square(task)) / count), _MIN_STD)
    if reward.kind == "gain":
        task = reward.gain_every * task
    if reward.target_per == "image":
        sparsity = reward.target - share.mean((1, 2))
    else:
        mean = total(share) / total(jnp.ones_like(share))
        sparsity = jnp.broadcast_to(reward.target - mean, share.shape[:1])
    both = task + reward.weight * sparsity[:, None, None]
    if price is not None:
        both = both - price
    return Advantage(task, sparsity, jnp.where(mask, both, -both))


def _centered(
    worth: Array, known: Array, baseline: str, total: Callable[[Array], Array]
) -> Float[Array, "n gh gw"]:
    weight = known.astype(jnp.float32)
    if baseline == "image":
        sums = [x.sum((1, 2), keepdims=True) for x in (worth * weight, weight)]
    else:
        sums = [total(x)[None, None, None] for x in (worth * weight, weight)]
    return jnp.where(known, worth - sums[0] / jnp.maximum(sums[1], 1), 0.0)
