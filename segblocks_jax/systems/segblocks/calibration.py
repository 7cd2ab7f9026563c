"""The threshold of a policy's scores with which a target share of blocks runs high, as evaluation counts it."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, UInt8

from segblocks_jax.adaptive.buckets import round_to_bucket
from segblocks_jax.data import EvalBatch, Normalization, SegmentationSource, eval_batches, normalize
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.systems.segblocks.policies import Policy
from segblocks_jax.systems.segblocks.subset import Some

IMAGES = 256
"""On how many training images, evenly spaced, a threshold is found."""


@dataclasses.dataclass(frozen=True, eq=False)
class RankedBatch:
    """The blocks of a batch that is served together, best first.

    Attributes:
        scores: of the blocks, falling.
        shares: (blocks + 1,), at k the sum over images of the share of their blocks among the k best.
        images: how many.
    """

    scores: Float[np.ndarray, "blocks"]
    shares: Float[np.ndarray, "blocks_and_none"]
    images: int

    @classmethod
    def of(
        cls, scores: Float[np.ndarray, "n gh gw"], inside: Bool[np.ndarray, "n gh gw"], images: int
    ) -> "RankedBatch":
        """`inside` is False for blocks of padding, which run but count in no share; `images` are no filling."""
        order = np.argsort(-scores, axis=None, kind="stable")
        part = inside / np.maximum(inside.sum((1, 2), keepdims=True), 1)
        shares = np.append(0.0, np.cumsum(part.reshape(-1)[order]))
        return cls(scores.reshape(-1)[order].astype(np.float64), shares, images)

    def share(self, threshold: float, step: float) -> float:
        """The sum over images of the shares that run high: blocks above the threshold, rounded up to a bucket."""
        count = int(np.count_nonzero(self.scores > threshold))
        return float(self.shares[round_to_bucket(count, self.scores.size, step)])


def find_threshold(
    batches: Sequence[RankedBatch], target: float, step: float
) -> tuple[float, float]:
    """The threshold whose mean share over all images is nearest to a target, and this share.

    Of two that are as near it is the larger, with fewer blocks. It lies halfway between two scores, so that rounding
    decides nothing. Where many blocks have one score, shares between those without and with all of them don't
    exist; other distributions are met up to the rounding of buckets in one batch.
    """
    distinct = np.unique(np.concatenate([batch.scores for batch in batches]))
    edges = np.concatenate(
        [[distinct[0] - 1], (distinct[1:] + distinct[:-1]) / 2, [distinct[-1] + 1]]
    )
    images = sum(batch.images for batch in batches)

    def share(edge: int) -> float:
        return sum(batch.share(edges[edge], step) for batch in batches) / images

    # Shares fall with the threshold: the last that has at least the target, and the one behind it.
    low, high = 0, len(edges) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if share(middle) >= target else (low, middle - 1)
    near = {edge: share(edge) for edge in (low, min(low + 1, len(edges) - 1))}
    best = min(near, key=lambda edge: (abs(near[edge] - target), -edge))
    return float(edges[best]), near[best]


def calibrate(
    policy: Any,
    config: ExperimentConfig,
    source: Callable[[], SegmentationSource],
    stored: Mapping[str, float] | None = None,
) -> dict[str, float] | None:
    """Makes a learned policy what is served: without a price, with the threshold that `policy.share` asks for.

    Returns:
        Its `threshold`, before which it was 0, the `share` of high blocks with it on the images of `source()`, and
        what both hold for; `stored` instead, if it holds for the same. None unless the policy is to be calibrated.
    """
    policy.drop_price()
    if config.policy.share != "calibrated":
        return None
    target, step = config.policy.target, config.policy.bucket_step
    valid = {"target": target, "bucket_step": step, "batch_size": config.loop.eval_batch_size}
    if stored is None or not valid.items() <= stored.items():
        threshold, share = find_threshold(rank_images(policy, source(), config), target, step)
        stored = {"threshold": threshold, "share": share, **valid}
    policy.move_threshold(stored["threshold"])
    return dict(stored)


def rank_images(
    policy: Policy, source: SegmentationSource, config: ExperimentConfig
) -> list[RankedBatch]:
    """What a policy says of the blocks of `IMAGES` whole images, batched as evaluation does."""
    policy = nnx.clone(policy)
    policy.eval()
    graphdef, state = nnx.split(policy)
    side, loop = config.policy.block_size, config.loop
    batches: Iterable[EvalBatch] = eval_batches(
        Some(source, IMAGES), loop.eval_batch_size, side, loop.eval_sizes
    )
    ranked = []
    for batch in batches:
        scores = np.asarray(_scores(state, batch.image, graphdef, source.normalization))
        inside = np.zeros(scores.shape, bool)
        for own, (h, w) in zip(inside, batch.sizes, strict=False):
            own[: -(-h // side), : -(-w // side)] = True
        ranked.append(RankedBatch.of(scores, inside, batch.count))
    return ranked


@functools.partial(jax.jit, static_argnames=("graphdef", "normalization"))
def _scores(
    state: nnx.State,
    image: UInt8[Array, "n h w 3"],
    graphdef: nnx.GraphDef,
    normalization: Normalization,
) -> Float[Array, "n gh gw"]:
    """Of the module: the next evaluation finds it compiled."""
    return nnx.merge(graphdef, state)(normalize(image, *normalization)).scores
