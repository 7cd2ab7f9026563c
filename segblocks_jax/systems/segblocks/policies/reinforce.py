"""The learned policy, which is trained by REINFORCE."""

import jax
from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax.adaptive.decision import Decision
from segblocks_jax.errors import InputError
from segblocks_jax.models import TorchNames
from segblocks_jax.nn import uniform
from segblocks_jax.systems.segblocks.policies.network import PolicyNet
from segblocks_jax.systems.segblocks.policies.policy import Policy


class Reinforce(Policy):
    """A policy network whose actions are sampled in training; in evaluation, high where logit > 0.

    Attributes:
        net: the policy network.
        target: share of high blocks that the reward asks for.
        deterministic: set by `flax.nnx.Module.train` and `eval`.
    """

    learned = True
    torch_names = TorchNames("policy.")

    def __init__(self, block_size: int, target: float, *, rngs: nnx.Rngs) -> None:
        """Builds the network with random weights."""
        super().__init__(block_size, target)
        self.net = PolicyNet(block_size, rngs=rngs)
        self.deterministic = False

    def __call__(
        self,
        image: Float[Array, "n h w 3"],
        key: Array | None = None,
        gain: Float[Array, "n gh gw"] | None = None,
    ) -> Decision:
        """Decides. Training needs a PRNG key to sample with, or a key per image."""
        logits = self.net(image)
        if self.deterministic:
            return Decision(logits > 0, logits)
        if key is None:
            raise InputError(
                "the reinforce policy samples in training and needs a PRNG key; pass key, or call eval()"
            )
        return Decision(uniform(key, logits.shape) < jax.nn.sigmoid(logits), logits)
