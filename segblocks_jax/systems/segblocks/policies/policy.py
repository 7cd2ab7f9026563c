"""Policy, what every policy says of itself; and policies without parameters.

These are high or low everywhere, random, in the middle rows, by the image's content, or by the oracle's labels.
"""

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax.adaptive.decision import Decision, top_fraction
from segblocks_jax.errors import InputError
from segblocks_jax.exact import exact
from segblocks_jax.nn import uniform

Image = Float[Array, "n h w 3"]
Gain = Float[Array, "n gh gw"] | None


class Policy(nnx.Module):
    """Decides which blocks run high. Called as ``policy(image, key=None, gain=None) -> Decision``.

    Built as ``cls(block_size, target)`` and its `options`, a learned one with `rngs`, too.

    Attributes:
        learned: whether it has parameters, which training rewards; its scores are logits then.
        needs_labels: whether a call needs `gain`, the loss that each block saves at high resolution.
        ranks_blocks: whether its scores say which blocks to prefer; else all blocks are alike to it.
        options: what `policies.create` takes for it beside block size and target.
        block_size: side of a block in image pixels.
        target: share of blocks to run high.
    """

    learned: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    ranks_blocks: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, block_size: int, target: float, **options: Any) -> None:
        """Keeps both."""
        self.block_size = block_size
        self.target = target

    def __call__(self, image: Image, key: Array | None = None, gain: Gain = None) -> Decision:
        """Decides on normalized images; `key` is for sampling, one for the batch or one per image."""
        raise NotImplementedError


class Rule(Policy):
    """A policy without parameters, by the scores of its blocks."""

    def __init__(self, block_size: int, target: float, threshold: float | None = None) -> None:
        """With a threshold, blocks that score above it are high, and `target` plays no part."""
        super().__init__(block_size, target)
        self.threshold = threshold

    def __call__(self, image: Image, key: Array | None = None, gain: Gain = None) -> Decision:
        """Decides; `key` is for random policies, `gain` for the oracle."""
        scores = self.scores(image, key, gain)
        if self.threshold is None:
            return Decision(top_fraction(scores, self.target), scores)
        return Decision(scores > self.threshold, scores)

    def scores(self, image: Array, key: Array | None, gain: Array | None) -> Array:
        """Scores every block, (n, gh, gw)."""
        raise NotImplementedError

    def grid_shape(self, image: Array) -> tuple[int, int, int]:
        """(n, gh, gw) of an image batch."""
        return image.shape[0], image.shape[1] // self.block_size, image.shape[2] // self.block_size


class AllHigh(Rule):
    """All blocks high, whatever the target."""

    ranks_blocks = False
    share = 1.0

    def __init__(self, block_size: int, target: float = 1.0) -> None:
        """`target` plays no part."""
        super().__init__(block_size, self.share)

    def scores(self, image: Array, key: Array | None, gain: Array | None) -> Array:
        """The same score everywhere."""
        return jnp.zeros(self.grid_shape(image), jnp.float32)


class AllLow(AllHigh):
    """All blocks low, whatever the target."""

    share = 0.0


class Random(Rule):
    """A random choice of `target` of every image's blocks."""

    def scores(self, image: Array, key: Array | None, gain: Array | None) -> Array:
        """Uniform random scores."""
        if key is None:
            raise InputError("the random policy needs a PRNG key; pass key=jax.random.key(seed)")
        return uniform(key, self.grid_shape(image))


class Middle(Rule):
    """Whole rows of blocks around the middle: floor(gh (1 - t) / 2) up to floor(gh (1 + t) / 2), exactly."""

    def __call__(self, image: Image, key: Array | None = None, gain: Gain = None) -> Decision:
        """High between the two rows; the score falls with the distance from the middle."""
        shape = self.grid_shape(image)
        row = jnp.arange(shape[1])
        first, last = (int(shape[1] * (1 + sign * exact(self.target)) / 2) for sign in (-1, 1))
        scores = -jnp.abs(row.astype(jnp.float32) + (0.5 - shape[1] / 2))
        action = (row >= first) & (row < last)
        return Decision(*(jnp.broadcast_to(x[:, None], shape) for x in (action, scores)))


class Heuristic(Rule):
    """Blocks that lose most when they are averaged: mean of |4x4 means, repeated, - image| over RGB."""

    options = ("threshold",)

    def scores(self, image: Array, key: Array | None, gain: Array | None) -> Array:
        """How much averaging changes each block."""
        n, gh, gw = self.grid_shape(image)
        parts = image.reshape(n, image.shape[1] // 4, 4, image.shape[2] // 4, 4, 3)
        change = jnp.abs(parts - parts.mean((2, 4), keepdims=True)).sum((2, 4, 5)) / 16
        side = self.block_size // 4
        return change.reshape(n, gh, side, gw, side).mean((2, 4))


class Oracle(Rule):
    """Blocks whose loss falls most when they run high; needs labels, so it is a bound, not a method."""

    needs_labels = True
    options = ("threshold",)

    def scores(self, image: Array, key: Array | None, gain: Array | None) -> Array:
        """The gain itself: a block's mean loss at low resolution minus that at high."""
        if gain is None:
            raise InputError(
                "the oracle policy needs the loss that a block gains by high resolution, so it runs only"
                " where labels are given (train and eval); pass gain=loss_low - loss_high a block"
            )
        return gain
