"""Evaluation of a system on a data set: scores, operations, shares of high blocks, speed."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from segblocks_jax.adaptive.buckets import round_to_bucket
from segblocks_jax.adaptive.cost import count_macs
from segblocks_jax.adaptive.decision import Decision, fill_scores
from segblocks_jax.blocks import BlockGrid
from segblocks_jax.data import EvalBatch, SegmentationSource, eval_batches, normalize
from segblocks_jax.nn import scaled_size
from segblocks_jax.systems.segblocks.build import complete_spec
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.systems.segblocks.engine import Engine
from segblocks_jax.systems.segblocks.resolution_gain import resolution_gain
from segblocks_jax.tasks.segmentation.metrics import ConfusionTotal, Scores, scores
from segblocks_jax.tasks.segmentation.result import Segmentation
from segblocks_jax.training.sharding import gather, local_mesh


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result on a whole set.

    Attributes:
        scores: from the confusion matrix over all pixels.
        gmacs: mean multiply-adds an image, padded as it ran, at the real grids, in 10^9, policy included;
            None for no images.
        high_fraction: mean share of blocks that ran high; None without blocks.
        images_per_second: of one process: median over batches whose executable was compiled before, from
            images in host memory to labels in host memory; None where every batch compiled one.
        boundary_ratio: label-boundary density of high blocks over that of low blocks.
        images: number of images.
        shares: of high blocks, one an image; empty without blocks.
    """

    scores: Scores
    gmacs: float
    high_fraction: float | None
    images_per_second: float | None
    boundary_ratio: float | None
    images: int
    shares: tuple[float, ...] = ()

    def to_dict(self, class_names: tuple[str, ...]) -> dict[str, Any]:
        """Plain values for JSON, all but `shares`."""
        rest = {
            "gmacs": self.gmacs,
            "high_fraction": self.high_fraction,
            "images_per_second": self.images_per_second,
            "boundary_ratio": self.boundary_ratio,
            "images": self.images,
        }
        return {**self.scores.to_dict(class_names), **rest}


def evaluate(
    system: nnx.Dict,
    source: SegmentationSource,
    config: ExperimentConfig,
    *,
    mode: str = "exact",
    seed: int = 0,
    on_batch: Callable[[EvalBatch, Segmentation], None] | None = None,
) -> Evaluation:
    """Runs a system over a set of images at their full size.

    Images are padded to multiples of the block size, to at most `config.loop.eval_sizes` sizes; padding
    and the filling of the last batch count neither in the scores nor in the shares. Every process takes
    its share of the batches, on one device, and all get the result of the whole set, whatever their number.

    Args:
        system: of `create_system`.
        source: of `segblocks_jax.data.open_dataset`.
        config: of the experiment.
        mode: how many blocks run high, see `segblocks_jax.systems.segblocks.modes.Mode`; not for the oracle.
        seed: of random policies.
        on_batch: called after each batch of this process, e.g. for progress or pictures.
    """
    spec = complete_spec(config, source.table, source.normalization)
    engine = Engine(system, spec, dtype=config.precision, mode=mode)
    masks = _OracleMasks(system, source, config) if config.policy.name == "oracle" else None
    confusion = ConfusionTotal(len(source.table.classes), mesh=local_mesh())
    edges = _BoundaryDensity(config.policy.block_size)
    macs: dict[tuple, tuple[float, float]] = {}
    loop, shard = config.loop, (jax.process_index(), jax.process_count())
    rows: dict[int, _Row] = {}
    batches = eval_batches(source, loop.eval_batch_size, engine.multiple, loop.eval_sizes, shard)
    for i, batch in zip(itertools.count(*shard), batches, strict=False):
        mask = None if masks is None else masks(batch, seed + i)
        result = engine(batch.image, seed=seed + i, mask=mask)
        assert result.labels is not None
        confusion.update(batch.label, result.labels)
        size = batch.image.shape[1:3]
        if size not in macs:
            macs[size] = _gmacs(system, size, config)
        low, high = macs[size]
        masks_of = [None] * batch.count if result.mask is None else result.mask[: batch.count]
        executed = [1.0 if mask is None else float(mask.mean()) for mask in masks_of]
        side = config.policy.block_size
        shares = [
            1.0 if mask is None else float(mask[: -(-h // side), : -(-w // side)].mean())
            for mask, (h, w) in zip(masks_of, batch.sizes, strict=False)
        ]
        rows[i] = _Row(
            shares=shares,
            gmacs=[low + (high - low) * share for share in executed],
            rate=None if result.compiled else batch.count / result.seconds,
        )
        if result.mask is not None:
            edges.add(batch.label[: batch.count], result.mask[: batch.count])
        if on_batch is not None:
            on_batch(batch, result)
    return _summary(confusion.counts, rows, edges, in_blocks=engine.block_size is not None)


@dataclasses.dataclass(frozen=True)
class _Row:
    """What is kept of a batch: a number an image, and images a second if nothing was compiled."""

    shares: list[float]
    gmacs: list[float]
    rate: float | None


def _summary(
    counts: np.ndarray, rows: dict[int, _Row], edges: "_BoundaryDensity", *, in_blocks: bool
) -> Evaluation:
    """Of all processes together, in the order of the batches, so that their number changes no digit."""
    parts = gather((counts, rows, edges.counts))
    merged = {i: row for _, part, _ in parts for i, row in part.items()}
    ordered = [merged[i] for i in sorted(merged)]
    shares, gmacs = (
        [x for row in ordered for x in getattr(row, name)] for name in ("shares", "gmacs")
    )
    rates = [row.rate for row in ordered if row.rate is not None]
    boundary = _boundary_ratio(np.sum([part for _, _, part in parts], axis=0))
    return Evaluation(
        scores=scores(np.sum([part for part, _, _ in parts], axis=0)),
        gmacs=float(np.mean(gmacs)),
        high_fraction=float(np.mean(shares)) if in_blocks else None,
        images_per_second=float(np.median(rates)) if rates else None,
        boundary_ratio=boundary if in_blocks else None,
        images=len(gmacs),
        shares=tuple(shares) if in_blocks else (),
    )


def _gmacs(
    system: nnx.Dict, size: tuple[int, int], config: ExperimentConfig
) -> tuple[float, float]:
    """Of an image with all blocks low, and with all high."""
    policy = system.policy if config.policy.name != "static" else None
    size = scaled_size(size, config.model.input_scale)
    low, high = (
        count_macs(
            system.net, (1, *size, 3), share, policy=policy, low_factor=config.policy.low_factor
        )
        for share in (0.0, 1.0)
    )
    return low.total / 1e9, high.total / 1e9


class _OracleMasks:
    """The blocks that a policy picks which sees the labels, its number rounded as the engine does."""

    def __init__(
        self, system: nnx.Dict, source: SegmentationSource, config: ExperimentConfig
    ) -> None:
        self._config = config
        system = nnx.clone(system)
        system.eval()
        graphdef, self._state = nnx.split(system)

        @jax.jit
        def decide(state: nnx.State, image: jax.Array, label: jax.Array) -> Decision:
            system = nnx.merge(graphdef, state)
            image = normalize(image, *source.normalization)
            return system.policy(image, None, resolution_gain(system, image, label, config))

        self._decide = decide

    def __call__(self, batch: EvalBatch, seed: int) -> np.ndarray:
        decision = self._decide(self._state, batch.image, batch.label)
        policy, semantics = self._config.policy, self._config.semantics
        count = int(np.count_nonzero(decision.action))
        num_high = round_to_bucket(count, decision.action.size, policy.bucket_step)
        scores = fill_scores(decision, semantics.filling, jax.random.key(seed))
        return np.asarray(BlockGrid.from_mask(decision.action, num_high, scores).mask)


class _BoundaryDensity:
    """Counts pixels that differ in label from their right or lower neighbor, and all, by resolution.

    Attributes:
        counts: [edges, pixels] of [low, high] blocks.
    """

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self.counts = np.zeros((2, 2), np.int64)

    def add(self, labels: np.ndarray, mask: np.ndarray) -> None:
        labels = labels.astype(np.int16)
        valid = labels != 255
        edge = np.zeros(labels.shape, bool)
        for axis in (1, 2):
            ahead = [slice(None)] * 3
            ahead[axis] = slice(1, None)
            here = [slice(None)] * 3
            here[axis] = slice(None, -1)
            a, b = tuple(here), tuple(ahead)
            edge[a] |= (labels[a] != labels[b]) & valid[a] & valid[b]
        high = mask.repeat(self._block_size, 1).repeat(self._block_size, 2)
        for kind, chosen in enumerate((~high, high)):
            self.counts[:, kind] += edge[chosen].sum(), valid[chosen].sum()


def _boundary_ratio(counts: np.ndarray) -> float | None:
    edges, pixels = counts
    if not (pixels.all() and edges[0]):
        return None
    low, high = edges / pixels
    return float(high / low)
