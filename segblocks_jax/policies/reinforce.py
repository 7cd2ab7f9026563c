"""The learned policy and the surrogate loss whose gradient is REINFORCE's."""

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


@jax.named_scope("policy_loss")
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
        total_advantage: `policies.Advantage.total`.
        forced: blocks that rounding turned, not the policy; they carry no gradient.
    """
    log_probability = -jax.nn.softplus(jnp.where(mask, -logits, logits))
    weighted = log_probability * jax.lax.stop_gradient(total_advantage)
    if forced is not None:
        weighted = jnp.where(forced, 0.0, weighted)
    return -weighted.mean()


def entropy(logits: Float[Array, "n gh gw"]) -> Float[Array, "n gh gw"]:
    """Entropy of every block's decision in nats, from 0 to log 2: ``-p log p - (1 - p) log(1 - p)``."""
    return jax.nn.softplus(logits) - logits * jax.nn.sigmoid(logits)
