"""SegBlocks as the training loop, sweeps and entry points know it."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import optax
from flax import nnx

from segblocks_jax.data import (
    DATASETS,
    Normalization,
    SegmentationSource,
    TrainBatches,
    label_table,
    train_batches,
)
from segblocks_jax.data.summary import class_frequencies
from segblocks_jax.inference.predict import predict_inputs
from segblocks_jax.interop import check_target, load_backbone, save_model
from segblocks_jax.models import PlainNetwork
from segblocks_jax.systems.segblocks import speed as timing
from segblocks_jax.systems.segblocks.build import create_system, model_spec, open_source
from segblocks_jax.systems.segblocks.calibration import calibrate
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.systems.segblocks.engine import Engine
from segblocks_jax.systems.segblocks.evaluation import Evaluation, Evaluator, cost
from segblocks_jax.systems.segblocks.log_pictures import log_pictures
from segblocks_jax.systems.segblocks.resolution_gain import mean_gain
from segblocks_jax.systems.segblocks.spec import ModelSpec
from segblocks_jax.systems.segblocks.start import load_start
from segblocks_jax.systems.segblocks.step import TrainStep
from segblocks_jax.tasks.segmentation.class_weights import class_weights
from segblocks_jax.tasks.segmentation.labels import LabelTable
from segblocks_jax.training.logging import RunLog
from segblocks_jax.training.state import Multipliers
from segblocks_jax.training.steps import Report
from segblocks_jax.training.system import OnBatch, System


class SegBlocks(System):
    """Semantic segmentation in blocks of two resolutions; without a policy, of whole images."""

    config_type = ExperimentConfig
    main_metric = "miou"

    def __init__(
        self,
        config: ExperimentConfig,
        *,
        data_dir: str | None = None,
        eval_split: str | None = None,
        sources: tuple[SegmentationSource, SegmentationSource] | None = None,
    ) -> None:
        """Opens no data yet.

        `data_dir`, `eval_split`, and the `sources` to train and to evaluate on take the place of what the
        configuration says.
        """
        if data_dir is not None:
            data = dataclasses.replace(config.data, data_dir=data_dir)
            config = dataclasses.replace(config, data=data)
        self.config, self._eval_split = config, eval_split or config.data.eval_split
        self._evaluator: Evaluator | None = None
        if sources is not None:
            self.train_source, self.eval_source = sources

    @functools.cached_property
    def train_source(self) -> SegmentationSource:
        """What is trained on."""
        return open_source(self.config, self.config.data.train_split)

    @functools.cached_property
    def eval_source(self) -> SegmentationSource:
        """What is evaluated on."""
        return open_source(self.config, self._eval_split)

    @functools.cached_property
    def table(self) -> LabelTable:
        """The classes; opens no more than it must."""
        return label_table(self.config.data.dataset, self.config.data.data_dir)

    @property
    def normalization(self) -> Normalization:
        """Of the images; opens the training data where only that tells it."""
        return DATASETS[self.config.data.dataset].normalization or self.train_source.normalization

    @property
    def spec(self) -> ModelSpec:
        """What builds and serves the model."""
        table, normalization = self.table, self.normalization._asdict()
        colors = tuple(map(tuple, table.colors.tolist()))
        spec = model_spec(self.config, table.num_classes)
        return dataclasses.replace(
            spec, class_names=table.classes, class_colors=colors, **normalization
        )

    @property
    def _learned(self) -> bool:
        kind = self.config.policy.kind
        return kind is not None and kind.learned

    @property
    def model(self) -> str:
        """Name of the network."""
        return self.config.model.name

    def build(self) -> nnx.Dict:
        """``{"net", "policy"}``; see `create_system`."""
        return create_system(self.config, len(self.table.classes))

    def multipliers(self) -> Multipliers:
        """Of the backbone, and of a learned policy."""
        optim = self.config.optim
        net = {"net": 0.0} if optim.freeze_network else {"net/backbone": optim.backbone_multiplier}
        return net | ({"policy": optim.policy_multiplier} if self._learned else {})

    def load_pretrained(self, modules: Any, workdir: Path | None = None) -> dict[str, Any] | None:
        """Loads the network of `config.model.init_from`, or the backbone `pretrained` for this normalization."""
        if self.config.model.init_from is not None:
            return load_start(modules, self, workdir)
        file = self.config.model.pretrained
        return None if file is None else load_backbone(modules.net, file, self.normalization)

    @functools.cached_property
    def class_weights(self) -> tuple[float, ...] | None:
        """Of the loss, one per class; None for none. "median_frequency" reads all training labels."""

        def count() -> tuple[list[int], list[int]]:
            found = class_frequencies(self.train_source)
            return found.pixels[:-1], found.images[:-1]  # Without what is ignored.

        return class_weights(self.config.optim.class_weights, self.table.classes, count)

    def train_step(
        self, graphdef: nnx.GraphDef, optimizer: optax.GradientTransformation, report: Report
    ) -> TrainStep:
        """See `TrainStep`."""
        options: dict[str, Any] = {"report": report, "class_weights": self.class_weights}
        return TrainStep(graphdef, optimizer, self.config, self.normalization, **options)

    def train_batches(self, shard: tuple[int, int]) -> TrainBatches:
        """Augmented crops."""
        data, _ = self.config.data, self.eval_source
        size, seed = self.config.optim.batch_size, self.config.seed
        options: dict[str, Any] = {"workers": data.workers, "shard": shard}
        return train_batches(self.train_source, data.augmentation(), size, seed, **options)

    def calibrate(
        self, modules: Any, stored: Mapping[str, float] | None = None
    ) -> dict[str, float] | None:
        """Moves a learned policy's threshold to where the training images have the target share of high blocks.

        Drops the network's heads that training alone uses.
        """
        if isinstance(net := getattr(modules.net, "net", modules.net), PlainNetwork):
            net.drop_training_heads()
        if not self._learned:
            return None
        return calibrate(modules.policy, self.config, lambda: self.train_source, stored)

    def evaluate(
        self, modules: Any, *, on_batch: OnBatch | None = None, mode: str | None = None
    ) -> Evaluation:
        """See `Evaluator`; on all devices of this process, with the programs of earlier evaluations."""
        if self._evaluator is None:
            batches = -(-self.eval_size // self.config.loop.eval_batch_size)
            devices = jax.local_devices()[:batches]
            # All that an evaluation can need, so that the next one compiles nothing.
            per_size = math.ceil(1 / self.config.policy.bucket_step) + 2
            needed = self.config.loop.eval_sizes * per_size * len(devices)
            engine = self.engine(modules, devices=devices, max_programs=max(128, needed))
            self._evaluator = Evaluator(engine, self.eval_source, self.config)
        else:
            self._evaluator.engine.replace_weights(modules)
        result = self._evaluator(modules, mode=mode, on_batch=on_batch)
        whole = self.config.model.input_scale == 1  # Others don't see what a high block shows.
        if mode is not None or not self.config.loop.gain_images or not whole:
            return result
        return dataclasses.replace(result, gain=mean_gain(modules, self.eval_source, self.config))

    def describe(self) -> dict[str, Any]:
        """The split that is evaluated, the configuration, and the weights of classes where there are any."""
        config = self.config.stored()
        config["data"]["data_dir"] = None
        split = f"{self.eval_source.name}/{self.eval_source.split}"
        weights = {} if self.class_weights is None else {"class_weights": list(self.class_weights)}
        return {"split": split, "config": config, **weights}

    @property
    def eval_size(self) -> int:
        """Number of images."""
        return len(self.eval_source)

    def details(self, modules: Any, result: Evaluation) -> dict[str, Any]:
        """Shares of all images, the result at the target share, images, parameters, operations by part."""
        at_target, policy = None, self.config.policy
        # All that rank blocks and may be served can be held to the same share.
        if policy.kind is not None and policy.kind.ranks_blocks and not policy.kind.needs_labels:
            at_target = self.evaluate(modules, mode=f"share={policy.target}").to_dict()
        sources = self.train_source, self.eval_source
        return {
            "at_target": at_target,
            "shares": list(result.shares),
            "data": {s.split: {"images": len(s), "skipped": len(s.skipped)} for s in sources},
            "counts": cost(modules, self.config, self.eval_source.sizes[0], result.high_fraction),
        }

    def note(self, metrics: Mapping[str, float]) -> str:
        """The loss and the share of high blocks."""
        share = f", high {metrics['high_fraction']:.0%}" if "high_fraction" in metrics else ""
        return f"loss {metrics['loss_task']:.3f}{share}"

    def show(self, log: RunLog, step: int) -> OnBatch:
        """The first images, the same ones each time: input, labels, grid."""
        count, colors = self.config.loop.eval_pictures, self.table.colors
        return log_pictures(log, step, count, colors, learned=self._learned)

    def check_export(self, folder: Path) -> None:
        """Refuses a folder that holds something else than a saved model."""
        check_target(folder)

    def export(self, modules: Any, folder: Path) -> None:
        """Writes what `load_model` reads."""
        save_model(folder, modules, self.spec)

    def engine(self, modules: Any, **options: Any) -> Engine:
        """An engine at the configuration's precision; `options` as for `Engine`."""
        return Engine(modules, self.spec, dtype=self.config.precision, **options)

    def predict(self, load: Callable[[], Any], source: str, output: Path, **options: Any) -> int:
        """Writes label PNGs, overlays, grids; options: `mode`, `shapes` of `Engine`, those of `predict_inputs`."""
        serve = {name: options.pop(name) for name in ("mode", "shapes") if name in options}

        def engine() -> Engine:
            return self.engine(load(), keep_memory=True, **serve)

        options["overwrite"] = True  # A run may have gone on, or be another one.
        return predict_inputs(engine, self.table, [source], output, **options)

    def speed(self, size: tuple[int, int] | None = None) -> tuple[dict[str, Any], str]:
        """Times the dense network and the network in blocks, by default on 512 x 1024 pixels."""
        report = timing.measure(self.config, size or (512, 1024), len(self.table.classes))
        return report, timing.format_report(report)


SYSTEM = SegBlocks
