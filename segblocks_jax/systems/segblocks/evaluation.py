"""Evaluation of a system on a data set: scores, operations, shares of high blocks, speed."""

import collections
import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from flax import nnx

from segblocks_jax.adaptive.cost import Macs, count_macs
from segblocks_jax.data import EvalBatch, SegmentationSource, eval_batches
from segblocks_jax.nn import scaled_multiple, scaled_size
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.systems.segblocks.engine import Engine
from segblocks_jax.systems.segblocks.resolution_gain import OracleMasks
from segblocks_jax.tasks.segmentation import metrics
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
        images_per_second: of one device: median over batches whose executable was compiled before, from
            images in host memory to labels in host memory; None where every batch compiled one.
        boundary_ratio: label-boundary density of high blocks over that of low blocks.
        images: number of images.
        class_names: of the scores.
        shares: of high blocks, one per image; empty without blocks.
        gain: of blocks by running high, see `resolution_gain.mean_gain`; None where it wasn't measured.
    """

    scores: metrics.Scores
    gmacs: float
    high_fraction: float | None
    images_per_second: float | None
    boundary_ratio: float | None
    images: int
    class_names: tuple[str, ...]
    shares: tuple[float, ...] = ()
    gain: Mapping[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, all but `shares`."""
        rest = ("gmacs", "high_fraction", "images_per_second", "boundary_ratio", "images")
        scores = self.scores.to_dict(self.class_names)
        return scores | {name: getattr(self, name) for name in rest} | dict(self.gain or {})

    def __str__(self) -> str:
        lines = [metrics.format_scores(self.scores, self.class_names)]
        lines.append(f"GMACs per image: {self.gmacs:.3f} (mean over {self.images} real grids)")
        if self.high_fraction is not None:
            lines.append(f"share of high blocks: {self.high_fraction:.1%}")
        if self.boundary_ratio is not None:
            lines.append(f"label-boundary density, high blocks over low: {self.boundary_ratio:.2f}")
        if self.gain is not None:
            mean, positive = self.gain.values()
            lines.append(
                f"gain of a block by running high: {mean:.4f} nats; above 0 for {positive:.1%}"
            )
        if self.images_per_second is not None:
            lines.append(f"images/s: {self.images_per_second:.2f}")
        return "\n".join(lines)


class Evaluator:
    """Runs systems of one structure over a set of images at their full size; what is compiled is kept.

    Images are padded to multiples of the block size, to at most `config.loop.eval_sizes` sizes; padding and the
    filling of the last batch count neither in the scores nor in the shares. Every process takes its share of the
    batches, on the engine's devices, and all get the result of the whole set, whatever their number.

    Attributes:
        engine: that serves the system of a call.
    """

    def __init__(
        self, engine: Engine, source: SegmentationSource, config: ExperimentConfig
    ) -> None:
        """Runs nothing yet; `engine` serves the network and policy of the experiment `config`."""
        self.engine, self._source, self._config = engine, source, config
        self._macs: dict[tuple[int, int], tuple[float, float]] = {}

    def __call__(
        self,
        system: nnx.Dict,
        *,
        mode: str | None = None,
        on_batch: Callable[[EvalBatch, Segmentation], None] | None = None,
    ) -> Evaluation:
        """Evaluates the system, of `create_system`, whose weights the engine has.

        `mode` is for other policies than the oracle, default: the engine's. `on_batch` is called after each batch
        of this process, e.g. for progress or pictures.
        """
        engine, source, config = self.engine, self._source, self._config
        kind, masks = config.policy.kind, None
        if kind is not None and kind.needs_labels:
            masks = OracleMasks(system, source.normalization, config)
        confusion = metrics.ConfusionTotal(len(source.table.classes), mesh=local_mesh())
        edges = metrics.BoundaryDensity(config.policy.block_size)
        rows: dict[int, _Row] = {}

        def serve(i: int, batch: EvalBatch) -> Segmentation:
            mask = None if masks is None else masks(batch.image, batch.label, i)
            return engine(batch.image, mode=mode, seed=i, mask=mask)

        with contextlib.closing(self._served(serve)) as served:
            for i, batch, future in served:
                result: Segmentation = future.result()
                assert result.labels is not None
                confusion.update(batch.label, result.labels)
                gmacs = self._gmacs(system, batch.image.shape[1:3])
                rows[i] = _Row.of(batch, result, gmacs, config.policy.block_size)
                if result.mask is not None:
                    edges.add(batch.label[: batch.count], result.mask[: batch.count])
                if on_batch is not None:
                    on_batch(batch, result)
        parts = gather((confusion.counts, rows, edges.counts))
        return _summary(parts, source.table.classes, in_blocks=engine.block_size is not None)

    def _served(
        self, serve: Callable[[int, EvalBatch], Segmentation]
    ) -> Generator[tuple[int, EvalBatch, Future], None, None]:
        """This process's batches with numbers and results, in order; one runs on each of the engine's devices."""
        loop, shard = self._config.loop, (jax.process_index(), jax.process_count())
        batches = eval_batches(
            self._source, loop.eval_batch_size, self.engine.multiple, loop.eval_sizes, shard
        )
        running: collections.deque[tuple[int, EvalBatch, Future]] = collections.deque()
        workers = max(1, len(self.engine.devices))
        with contextlib.closing(batches), ThreadPoolExecutor(workers) as pool:
            for i, batch in zip(itertools.count(*shard), batches, strict=False):
                running.append((i, batch, pool.submit(serve, i, batch)))
                if len(running) == workers:
                    yield running.popleft()
            yield from running

    def _gmacs(self, system: nnx.Dict, size: tuple[int, int]) -> tuple[float, float]:
        """Of an image with all blocks low, and with all high."""
        if size not in self._macs:
            low, high = (_image_macs(system, self._config, size, share) for share in (0.0, 1.0))
            self._macs[size] = low.total / 1e9, high.total / 1e9
        return self._macs[size]


def cost(
    system: nnx.Dict, config: ExperimentConfig, size: tuple[int, int], share: float | None
) -> dict[str, Any]:
    """Parameters, and multiply-adds by part of an image of a size, padded, at a share of high blocks."""
    scale = config.model.input_scale
    multiple = system.policy.block_size if "policy" in system else scaled_multiple(scale)
    height, width = (-(-side // multiple) * multiple for side in size)
    macs = _image_macs(system, config, (height, width), share)
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(nnx.state(system, nnx.Param))),
        "gmacs_by_part": {name: value / 1e9 for name, value in macs.by_part.items()},
        "size": list(scaled_size((height, width), scale)),
    }


def _image_macs(
    system: nnx.Dict, config: ExperimentConfig, size: tuple[int, int], share: float | None
) -> Macs:
    """Of one image of a padded size."""
    shape = (1, *scaled_size(size, config.model.input_scale), 3)
    policy = system.policy if "policy" in system else None
    return count_macs(system.net, shape, share, policy=policy, low_factor=config.policy.low_factor)


@dataclasses.dataclass(frozen=True)
class _Row:
    """What is kept of a batch: a number per image, and images/s if nothing was compiled."""

    shares: list[float]
    gmacs: list[float]
    rate: float | None

    @classmethod
    def of(
        cls, batch: EvalBatch, result: Segmentation, macs: tuple[float, float], side: int
    ) -> "_Row":
        """`macs` are those of an image with all blocks low, and with all high; `side` a block's."""
        low, high = macs
        executed = shares = [1.0] * batch.count
        if result.mask is not None:
            masks = result.mask[: batch.count]
            executed = [float(mask.mean()) for mask in masks]
            shares = [
                float(mask[: -(-h // side), : -(-w // side)].mean())
                for mask, (h, w) in zip(masks, batch.sizes, strict=False)
            ]
        gmacs = [low + (high - low) * share for share in executed]
        rate = None if result.compiled else batch.count / result.seconds
        return cls(shares, gmacs, rate)


def _summary(
    parts: list[tuple[np.ndarray, dict[int, _Row], np.ndarray]],
    class_names: tuple[str, ...],
    *,
    in_blocks: bool,
) -> Evaluation:
    """Of all processes together, in the order of the batches, so that their number changes no digit."""
    confusion, rows, edges = zip(*parts, strict=True)
    merged = {i: row for part in rows for i, row in part.items()}
    ordered = [merged[i] for i in sorted(merged)]
    shares = [share for row in ordered for share in row.shares]
    gmacs = [value for row in ordered for value in row.gmacs]
    rates = [row.rate for row in ordered if row.rate is not None]
    boundary = metrics.boundary_ratio(np.sum(edges, axis=0))
    return Evaluation(
        scores=metrics.scores(np.sum(confusion, axis=0)),
        gmacs=float(np.mean(gmacs)),
        high_fraction=float(np.mean(shares)) if in_blocks else None,
        images_per_second=float(np.median(rates)) if rates else None,
        boundary_ratio=boundary if in_blocks else None,
        images=len(gmacs),
        class_names=class_names,
        shares=tuple(shares) if in_blocks else (),
    )
