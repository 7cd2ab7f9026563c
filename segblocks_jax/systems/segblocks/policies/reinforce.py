"""The learned policy, which is trained by REINFORCE, and its network."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax.adaptive.decision import Decision
from segblocks_jax.errors import InputError
from segblocks_jax.models import TorchNames
from segblocks_jax.nn import BatchNorm, BlockOptions, Conv, scope, uniform
from segblocks_jax.nn.initial import small_uniform
from segblocks_jax.systems.segblocks.policies.policy import Gain, Image, Policy

_STRIDE = 32
_MOMENTUM = 0.02
PRICE_RATE = 0.05
"""Nats per step by which the price of a high block rises when all run high and none should."""


class PolicyNet(nnx.Module):
    """Four strided convolutions on the image at 32 x 32 pixels per block. Always float32.

    Source: SegBlocks (arXiv 2011.12025), section 3.4; 216,193 parameters with 64 features.
    """

    torch_names = TorchNames(
        "policy.policy_net.",
        (
            (r"^convs\.(\d+)\.", lambda m: f"layers.{3 * int(m[1])}."),
            (r"^norms\.(\d+)\.", lambda m: f"layers.{3 * int(m[1]) + 1}."),
        ),
    )

    def __init__(self, block_size: int, *, features: int = 64, rngs: nnx.Rngs) -> None:
        """For blocks of `block_size` image pixels, a multiple of 32."""
        if block_size % _STRIDE or block_size < _STRIDE:
            raise InputError(
                f"PolicyNet: block size {block_size} is not a multiple of {_STRIDE}; use e.g."
                f" {max(_STRIDE, block_size // _STRIDE * _STRIDE)} or 128"
            )
        if features < 1:
            raise InputError(f"PolicyNet: features is {features}; expected a positive number")
        self.subsampling = block_size // _STRIDE
        # PyTorch's default. Larger weights start with probabilities near 0 and 1, and sampling explores nothing.
        conv = functools.partial(Conv, kernel_init=small_uniform, rngs=rngs)
        self.convs = nnx.List(
            [
                conv(3, features, 7, stride=4),
                conv(features, features, 5, stride=2),
                conv(features, features, 5, stride=2),
                conv(features, 1, 5, stride=2, use_bias=True),
            ]
        )
        # Blocks play no part here, so neither do the semantics.
        self.norms = nnx.List(
            [BatchNorm(features, momentum=_MOMENTUM, semantics=BlockOptions()) for _ in range(3)]
        )

    def __call__(self, image: Float[Array, "n h w 3"]) -> Float[Array, "n gh gw"]:
        """Normalized image, h and w multiples of the block size -> a logit a block."""
        with scope("policy"):
            x = image.astype(jnp.float32)[:, :: self.subsampling, :: self.subsampling]
            for conv, norm in zip(self.convs, self.norms, strict=False):
                x = jax.nn.relu(norm(conv(x)))
            return self.convs[-1](x)[..., 0]


class Reinforce(Policy):
    """A policy network whose actions are sampled in training; in evaluation, high where logit > 0.

    Attributes:
        net: the policy network.
        target: share of high blocks that the reward asks for.
        price: what a high block costs, in nats, where it is learned by dual ascent; plays no part in decisions.
        deterministic: set by `flax.nnx.Module.train` and `eval`.
    """

    learned = True
    options = ("features",)
    torch_names = TorchNames("policy.")

    def __init__(
        self, block_size: int, target: float, *, features: int = 64, rngs: nnx.Rngs
    ) -> None:
        """Builds the network with random weights."""
        super().__init__(block_size, target)
        self.net = PolicyNet(block_size, features=features, rngs=rngs)
        self.price: nnx.BatchStat | None = nnx.data(None)
        self.deterministic = False

    def __call__(self, image: Image, key: Array | None = None, gain: Gain = None) -> Decision:
        """Decides. Training needs a PRNG key to sample with, or a key per image."""
        logits = self.net(image)
        if self.deterministic:
            return Decision(logits > 0, logits)
        if key is None:
            raise InputError(
                "the reinforce policy samples in training and needs a PRNG key; pass key, or call eval()"
            )
        return Decision(uniform(key, logits.shape) < jax.nn.sigmoid(logits), logits)

    def start_price(self) -> None:
        """Has a price from now on, 0 at first."""
        self.price = nnx.data(nnx.BatchStat(jnp.zeros((), jnp.float32)))

    def drop_price(self) -> None:
        """Has none: what is served needs none."""
        self.price = nnx.data(None)

    def move_price(self, share: Float[Array, ""]) -> None:
        """Takes a step of dual ascent after a batch with this share of high blocks."""
        assert self.price is not None
        self.price[...] = self.price[...] + PRICE_RATE * (share - self.target)

    def move_threshold(self, by: float) -> None:
        """Lowers all logits by an amount, so that blocks run high whose logits were above it."""
        bias = self.net.convs[-1].bias
        assert bias is not None
        bias[...] = bias[...] - by
