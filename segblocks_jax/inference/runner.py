"""Runner: serves a network and its policy on batches of images, in blocks."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, UInt8

from segblocks_jax.blocks import BlockGrid, combine, split
from segblocks_jax.data import Normalisation, normalize
from segblocks_jax.inference.fused import FusedNet, fuse, pays
from segblocks_jax.nn import resize_bilinear
from segblocks_jax.policies import Decision, fill_scores, quantise
from segblocks_jax.training.config import ExperimentConfig
from segblocks_jax.training.step import resolution_gain


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """What a network says about a batch of images.

    Attributes:
        labels: (n, h, w) best class of every pixel.
        mask: (n, gh, gw) the blocks that ran high, or None for a network without blocks.
        scores: (n, gh, gw) the policy's scores (logits of a learned one), or None.
        seconds: from images in host memory to labels in host memory, compilation included.
        compiled: whether this call compiled an executable.
    """

    labels: UInt8[np.ndarray, "n h w"]
    mask: Bool[np.ndarray, "n gh gw"] | None
    scores: Float[np.ndarray, "n gh gw"] | None
    seconds: float
    compiled: bool


class Runner:
    """Runs a trained system. One executable is compiled for each image size and bucket of high blocks."""

    def __init__(
        self, system: nnx.Dict, config: ExperimentConfig, normalisation: Normalisation
    ) -> None:
        """Takes a copy of the system's weights, in evaluation mode."""
        system = nnx.clone(system)
        system.eval()
        graphdef, state = nnx.split(system)
        self.config = config
        self._net = fuse(system.net, config.precision) if pays() else None
        self.in_blocks = config.policy.name != "static"
        self._state = state
        self._known: set[tuple] = set()

        def prepare(images: Array) -> Array:
            return normalize(images, *normalisation)

        def decide(state: nnx.State, images: Array, labels: Array | None, key: Array) -> Decision:
            system = nnx.merge(graphdef, state)
            image = prepare(images)
            gain = None
            if system.policy.needs_gain and labels is not None:
                gain = resolution_gain(system, image, labels, config)
            return system.policy(image, key, gain)

        def run(
            state: nnx.State,
            fused: FusedNet | None,
            images: Array,
            decision: Decision | None,
            key: Array,
            num_high: int | None,
        ) -> tuple[Array, Array | None]:
            net = nnx.merge(graphdef, state).net if fused is None else fused
            image = prepare(images).astype(config.precision)
            _, height, width, _ = images.shape
            if decision is None:
                return _labels(net(image), (height, width)), None
            scores = fill_scores(decision, config.semantics.filling, key)
            grid = BlockGrid.from_mask(decision.action, num_high, scores, config.policy.low_factor)
            logits = combine(net(split(image, grid)), config.semantics.low_upsampling)
            return _labels(logits, (height, width)), grid.mask

        self._decide = jax.jit(decide)
        self._run = jax.jit(run, static_argnums=5)

    def __call__(
        self,
        images: UInt8[np.ndarray, "n h w 3"],
        labels: UInt8[np.ndarray, "n h w"] | None = None,
        *,
        share: float | None = None,
        seed: int = 0,
    ) -> Prediction:
        """Predicts.

        Args:
            images: sides must be multiples of the block size (of 32 without blocks).
            labels: for the oracle policy only.
            share: overrides the policy's number of high blocks by this share, best-scored first.
            seed: for random policies and random filling.

        Raises:
            ValueError: an image side that is no multiple; `split` tells the rest.
        """
        self._check_size(images.shape)
        key = jax.random.key(seed)
        start = time.perf_counter()
        decision, num_high = None, None
        if self.in_blocks:
            decision = self._decide(self._state, images, labels, key)
            total = decision.action.size
            if share is None:
                count = int(np.count_nonzero(decision.action))
                num_high = quantise(count, total, self.config.policy.quantise_step)
            else:
                num_high = round(share * total)
        predicted, mask = self._run(self._state, self._net, images, decision, key, num_high)
        predicted = np.asarray(predicted)
        seconds = time.perf_counter() - start
        signature = (images.shape, labels is None, num_high)
        compiled = signature not in self._known
        self._known.add(signature)
        return Prediction(
            labels=predicted,
            mask=None if mask is None else np.asarray(mask),
            scores=None if decision is None else np.asarray(decision.scores),
            seconds=seconds,
            compiled=compiled,
        )

    @property
    def multiple(self) -> int:
        """What the sides of images must be multiples of, in pixels."""
        return self.config.policy.block_size if self.in_blocks else 32

    def _check_size(self, shape: tuple[int, ...]) -> None:
        for name, size in (("height", shape[1]), ("width", shape[2])):
            if size % self.multiple:
                up = -(-size // self.multiple) * self.multiple
                raise ValueError(
                    f"image {name} {size} is not a multiple of"
                    f" {'the block size' if self.in_blocks else 'the stride'} {self.multiple};"
                    f" pad it to {up}, e.g. with segblocks_jax.data.pad_to_multiple"
                )


def _labels(logits: Float[Array, "n lh lw k"], size: tuple[int, int]) -> UInt8[Array, "n h w"]:
    return resize_bilinear(logits.astype(jnp.float32), size).argmax(-1).astype(jnp.uint8)
