"""What systems that classify images share, as the training loop and entry points know them."""

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from segblocks_jax.adaptive.cost import count_macs
from segblocks_jax.data import TrainBatches, images, train_batches
from segblocks_jax.errors import InputError
from segblocks_jax.interop import check_target, save_model
from segblocks_jax.structured_config import Config
from segblocks_jax.systems.classifier import predict, speed
from segblocks_jax.systems.classifier.config import BaseConfig
from segblocks_jax.systems.classifier.engine import Engine
from segblocks_jax.systems.classifier.evaluation import (
    Predictor,
    predict_all,
    summarize,
)
from segblocks_jax.systems.classifier.spec import BaseSpec
from segblocks_jax.systems.classifier.step import TrainStep
from segblocks_jax.tasks.classification.losses import cross_entropy
from segblocks_jax.training.steps import Metrics, Report
from segblocks_jax.training.system import OnBatch, System


class ImageClassifier(System):
    """What systems that classify images share. One needs a configuration of `BaseConfig` and a `spec`.

    Its modules are ``{"net"}`` with a network that gives logits; where they are something else it overrides `loss`
    and its spec's `forward`.
    """

    config_type: ClassVar[type[Config]] = BaseConfig
    main_metric = "top1"
    config: Any

    def __init__(
        self,
        config: Any,
        *,
        data_dir: str | None = None,
        eval_split: str | None = None,
    ) -> None:
        """Opens no data yet; ValueError where the data set has no such split."""
        changes = {"data_dir": data_dir, "eval_split": eval_split}
        given = {name: value for name, value in changes.items() if value is not None}
        if given:
            data = dataclasses.replace(config.data, **given)
            config = dataclasses.replace(config, data=data)
        self.config = config

    @property
    @abc.abstractmethod
    def spec(self) -> BaseSpec:
        """What builds and serves the model; `spec_fields` has what all specs hold."""

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; opens no more than it must."""
        return self.config.data.classes()

    def spec_fields(self) -> dict[str, Any]:
        """Of `BaseSpec`."""
        data = self.config.data
        return {
            "name": self.model,
            "num_classes": len(self.classes),
            **data.normalization._asdict(),
            "crop": data.crop,
            "resize": data.resize,
            "dataset": data.dataset,
            "class_names": self.classes,
        }

    @functools.cached_property
    def train_source(self) -> Any:
        """What is trained on."""
        return self.config.data.open(self.config.data.train_split)

    @functools.cached_property
    def eval_source(self) -> Any:
        """What is evaluated on."""
        return self.config.data.open(self.config.data.eval_split)

    @property
    def model(self) -> str:
        """Name of the network."""
        return self.config.model.name

    @property
    def eval_size(self) -> int:
        """Number of images."""
        return len(self.eval_source)

    def build(self) -> nnx.Module:
        """See `spec`."""
        return self.spec.build(nnx.Rngs(self.config.seed))

    def loss(
        self,
        modules: Any,
        image: Float[Array, "n h w 3"],
        label: Int[Array, "n"],
        keys: Array,
        progress: Float[Array, ""],
    ) -> tuple[Array, Metrics]:
        """What training minimizes on a device's part of the batch; traced.

        Args:
            modules: of `build`, in training mode.
            image: normalized, in the configuration's precision.
            label: of the images.
            keys: a PRNG key per image.
            progress: share of all steps that are done, from 0 to below 1.

        Returns:
            The loss, a mean over the images, and numbers for the log.
        """
        logits = modules.net(image)
        value = cross_entropy(logits, label, self.config.optim.label_smoothing).mean()
        right = jnp.argmax(logits, -1) == label
        return value, {"top1": right.mean(dtype=jnp.float32)}

    def train_step(
        self, graphdef: nnx.GraphDef, optimizer: optax.GradientTransformation, report: Report
    ) -> TrainStep:
        """See `TrainStep`."""
        normalization = self.config.data.normalization
        return TrainStep(graphdef, optimizer, self.config, normalization, self.loss, report=report)

    def train_batches(self, shard: tuple[int, int]) -> TrainBatches:
        """Augmented images."""
        config, _ = self.config, self.eval_source
        return train_batches(
            self.train_source,
            config.data.train_crop(),
            config.optim.batch_size,
            config.seed,
            workers=config.data.workers,
            shard=shard,
        )

    def outputs(
        self, modules: Any, source: Any, *, on_batch: OnBatch | None = None, **options: Any
    ) -> Any:
        """What the modules say of all images of a source; `options` as for `predict_all`."""
        predictor = Predictor(modules, self.spec, self.config.precision)
        given = source, self.config.data.eval_crop(), self.config.loop.eval_batch_size
        return predict_all(predictor, *given, on_batch=on_batch, **options)

    def gmacs(self, modules: Any, outputs: Any = None) -> float:
        """Mean multiply-adds an image, in 10^9: of the network, or what it executed for `outputs`."""
        return count_macs(modules.net, (1, *self.config.data.crop, 3)).total / 1e9

    def evaluate(self, modules: Any, *, on_batch: OnBatch | None = None) -> Any:
        """Accuracies on the evaluation data."""
        outputs = self.outputs(modules, self.eval_source, on_batch=on_batch)
        return summarize(outputs, self.gmacs(modules, outputs), self.classes)

    def describe(self) -> dict[str, Any]:
        """The split that is evaluated, and the configuration."""
        config = self.config.stored()
        config["data"]["data_dir"] = None
        return {"split": f"{self.eval_source.name}/{self.eval_source.split}", "config": config}

    def details(self, modules: Any, result: Any) -> dict[str, Any]:
        """Images, parameters, accuracies of the classes."""
        sources = self.train_source, self.eval_source
        parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(modules, nnx.Param)))
        return {
            "data": {source.split: {"images": len(source)} for source in sources},
            "parameters": parameters,
            "per_class": self.per_class(result),
        }

    def per_class(self, result: Any) -> dict[str, float]:
        """What `details` tells of each class."""
        return dict(zip(result.class_names, result.accuracy.per_class, strict=True))

    def note(self, metrics: Mapping[str, float]) -> str:
        """The loss and the accuracy on the batch."""
        top1 = f", top-1 {metrics['top1']:.1%}" if "top1" in metrics else ""
        return f"loss {metrics['loss']:.3f}{top1}"

    def check_export(self, folder: Path) -> None:
        """Refuses a folder that holds something else than a saved model."""
        check_target(folder)

    def export(self, modules: Any, folder: Path) -> None:
        """Writes what `load_model` reads."""
        save_model(folder, modules, self.spec)

    def engine(self, modules: Any, **options: Any) -> Any:
        """An engine at the configuration's precision; `options` as for `Engine`."""
        return Engine(modules, self.spec, dtype=self.config.precision, **options)

    def draw(self, modules: Any) -> predict.Draw | None:
        """What draws pictures of the network at work on an image, for prediction; None: nothing does."""
        return None

    def predict(
        self,
        load: Callable[[], Any],
        source: str,
        output: Path,
        *,
        settings: Any = None,
        batch_size: int = 1,
        max_pixels: int = images.MAX_PIXELS,
        **others: Any,
    ) -> int:
        """Classifies files; see `predict.predict_inputs`. Of the other flags it has none."""
        if more := [name for name, value in others.items() if value not in ("exact", (), False)]:
            raise InputError(
                f"--mode=predict: {self.model} has no {' and no '.join(more)} to choose"
            )
        options: dict[str, Any] = {"batch_size": batch_size, "max_pixels": max_pixels}
        makers = self.engine, self.draw
        return predict.predict_inputs(load, *makers, self.classes, source, output, **options)

    def speed(self, size: tuple[int, int] | None = None) -> tuple[dict[str, Any], str]:
        """Times the network with random weights on images of the size, by default the configuration's."""
        modules: Any = self.build()
        modules.eval()
        size = size or self.config.data.crop
        gmacs = count_macs(modules.net, (1, *size, 3)).total / 1e9
        options: dict[str, Any] = {"name": self.model, "precision": self.config.precision}
        report = speed.measure(modules, self.spec.forward, size, gmacs, **options)
        return report, speed.format_report(report)
