"""The learned policy and the surrogate loss whose gradient is REINFORCE's."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from segblocks_jax.models.policy_net import PolicyNet
from segblocks_jax.nn import uniform
from segblocks_jax.policies.decision import Decision


class Reinforce(nnx.Module):
    """A policy network whose actions are sampled in training; in evaluation, high where logit > 0.

    Attributes:
        net: the policy network.
        block_size: side of a block in image pixels.
        target: share of high blocks that the reward asks for.
        deterministic: set by `flax.nnx.Module.train` and `eval`.
    """

    needs_gain = False

    def __init__(self, block_size: int, target: float, *, rngs: nnx.Rngs) -> None:
        """Builds the network with random weights."""
        self.net = PolicyNet(block_size, rngs=rngs)
        self.block_size = block_size
        self.target = target
        self.deterministic = False

    def __call__(
        self,
        image: Float[Array, "n h w 3"],
        key: Array | None = None,
        gain: Float[Array, "n gh gw"] | None = None,
    ) -> Decision:
        """Decides. Training needs a PRNG key to sample with, or a key an image."""
        logits = self.net(image)
        if self.deterministic:
            return Decision(logits > 0, logits)
        if key is None:
            raise ValueError(
                "the reinforce policy samples in training and needs a PRNG key; pass key, or call eval()"
            )
        return Decision(uniform(key, logits.shape) < jax.nn.sigmoid(logits), logits)


@dataclasses.dataclass(frozen=True)
class Advantage:
    """The terms of the advantage of running a block as it ran, before the sign of its action.

    Attributes:
        task: (n, gh, gw) block loss minus the mean over blocks; 0 where a block has no valid pixel.
        sparsity: target minus the share of high blocks.
        total: (n, gh, gw) what multiplies the log-probability: negated for low blocks.
    """

    task: Float[Array, "n gh gw"]
    sparsity: Float[Array, ""]
    total: Float[Array, "n gh gw"]


def advantage(
    block_loss: Float[Array, "n gh gw"],
    has_valid: Bool[Array, "n gh gw"],
    mask: Bool[Array, "n gh gw"],
    *,
    target: float,
    weight: float = 1.0,
    axis_name: str | None = None,
) -> Advantage:
    """Reward of the executed grid, relative to the batch.

    Args:
        block_loss: mean loss of the block's pixels.
        has_valid: False where a block has only ignored pixels; it neither gets nor gives reward.
        mask: the grid that ran.
        target: share of high blocks wanted.
        weight: of the sparsity term against the task term.
        axis_name: mapped axis over whose devices the means are taken.

    Source: SegBlocks (arXiv 2011.12025), section 3.4.
    """

    def total(values: Array) -> Array:
        return values.sum() if axis_name is None else jax.lax.psum(values.sum(), axis_name)

    valid = has_valid.astype(jnp.float32)
    mean = total(block_loss * valid) / jnp.maximum(total(valid), 1)
    task = jnp.where(has_valid, block_loss - mean, 0.0)
    sparsity = target - total(mask.astype(jnp.float32)) / total(jnp.ones_like(valid))
    both = task + weight * sparsity
    return Advantage(task, sparsity, jnp.where(mask, both, -both))


def surrogate_loss(
    logits: Float[Array, "n gh gw"],
    mask: Bool[Array, "n gh gw"],
    total_advantage: Float[Array, "n gh gw"],
    forced: Bool[Array, "n gh gw"] | None = None,
) -> Float[Array, ""]:
    """``-mean(log p(mask) * stop_gradient(advantage))``: its gradient is the REINFORCE estimate.

    Args:
        logits: of a block being high.
        mask: the grid that ran.
        total_advantage: `Advantage.total`.
        forced: blocks that rounding turned, not the policy; they carry no gradient.
    """
    log_probability = -jax.nn.softplus(jnp.where(mask, -logits, logits))
    weighted = log_probability * jax.lax.stop_gradient(total_advantage)
    if forced is not None:
        weighted = jnp.where(forced, 0.0, weighted)
    return -weighted.mean()
