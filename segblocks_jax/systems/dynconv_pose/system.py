"""DynConv for human pose as the training loop and entry points know it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, UInt8

from segblocks_jax.data import images
from segblocks_jax.data.pose.source import PoseSource
from segblocks_jax.errors import InputError
from segblocks_jax.systems.classifier.predictor import Predictor
from segblocks_jax.systems.classifier.step import TrainStep
from segblocks_jax.systems.dynconv.system import DynConv
from segblocks_jax.systems.dynconv_pose import predict
from segblocks_jax.systems.dynconv_pose.config import ExperimentConfig
from segblocks_jax.systems.dynconv_pose.engine import Engine
from segblocks_jax.systems.dynconv_pose.evaluation import Evaluation, Outputs, predict_all
from segblocks_jax.systems.dynconv_pose.spec import ModelSpec
from segblocks_jax.tasks.pose import joints
from segblocks_jax.tasks.pose.augmentation import PersonCrop
from segblocks_jax.tasks.pose.heatmaps import targets
from segblocks_jax.tasks.pose.losses import heatmap_loss
from segblocks_jax.tasks.pose.metrics import accuracy
from segblocks_jax.tasks.pose.person import Person
from segblocks_jax.training.steps import Metrics, Report
from segblocks_jax.training.system import OnBatch


class DynConvPose(DynConv):
    """Joints of people by the hourglass, which computes where its masks say so, within a budget."""

    config_type = ExperimentConfig
    main_metric = "pckh"

    @property
    def spec(self) -> ModelSpec:
        """Of the network."""
        data = self.config.data
        return ModelSpec(
            self.model,
            joints.COUNT,
            data.normalization.mean,
            data.normalization.std,
            crop=data.crop,
            dataset=data.dataset,
            class_names=self.classes,
            width=self.config.model.width,
            stacks=self.config.model.stacks,
            masked=self.config.model.masked,
            flip_test=data.flip_test,
            shift_flipped=data.shift_flipped,
            bgr=data.bgr,
        )

    @functools.cached_property
    def eval_source(self) -> PoseSource:
        """What is evaluated on; raises InputError where PCKh can't be told."""
        source: PoseSource = self.config.data.open(self.config.data.eval_split)
        source.check_heads()
        return source

    def train_step(
        self, graphdef: nnx.GraphDef, optimizer: optax.GradientTransformation, report: Report
    ) -> TrainStep:
        """See `TrainStep`; an image's label is its joints' (x, y, visible)."""
        label = jax.ShapeDtypeStruct((joints.COUNT, 3), jnp.float32)
        data = self.config.data
        given = graphdef, optimizer, self.config, data.normalization, self.loss
        return TrainStep(*given, report=report, label=label)

    def loss(
        self,
        modules: Any,
        image: Float[Array, "n h w 3"],
        label: Float[Array, "n 16 3"],
        keys: Array,
        progress: Float[Array, ""],
    ) -> tuple[Array, Metrics]:
        """The sum of the stacks' losses, and the budget loss times its weight; arguments as of the classifier's."""
        data, forward = self.config.data, self.drawn(keys, progress)
        heatmaps = modules.net(image, forward)
        size = heatmaps[0].shape[1:3]
        target, weight = targets(label[..., :2], label[..., 2], data.crop, size, data.sigma)
        target, weight = jnp.asarray(target), jnp.asarray(weight)
        task = jnp.stack([heatmap_loss(x, target, weight) for x in heatmaps]).sum()
        right = jnp.asarray(accuracy(heatmaps[-1].astype(jnp.float32), target).mean)
        return self.within_budget(forward, task, {"loss_task": task, "accuracy": right}, progress)

    def outputs(
        self, modules: Any, source: PoseSource, *, on_batch: OnBatch | None = None, **options: Any
    ) -> Outputs:
        """What the modules find of all people of a source; see `predict_all`."""
        data = self.config.data
        return predict_all(
            Predictor(modules, self.spec, self.config.precision),
            source,
            data.eval_crop(),
            self.config.loop.eval_batch_size,
            sigma=data.sigma,
            on_batch=on_batch,
            **options,
        )

    def evaluate(self, modules: Any, *, on_batch: OnBatch | None = None) -> Evaluation:
        """PCKh and executed operations, also as shares of each block's."""
        outputs = self.outputs(modules, self.eval_source, on_batch=on_batch)
        values = {"executed_share": float(outputs.values["executed_share"].mean())}
        blocks = outputs.values.get("block_shares", np.zeros((1, 0))).mean(0)
        values |= {f"share_block{i}": float(share) for i, share in enumerate(blocks, 1)}
        gmacs = self.gmacs(modules, outputs)
        loss = float(outputs.losses.mean(dtype=np.float64))
        return Evaluation(outputs.score(), loss, gmacs, outputs.images_per_second, values)

    def per_class(self, result: Evaluation) -> dict[str, float]:
        """PCKh of the parts of the body."""
        return dict(result.pckh.parts)

    def note(self, metrics: Mapping[str, float]) -> str:
        """The loss, the accuracy on the batch, and the share of operations."""
        right = metrics.get("accuracy")
        return super().note(metrics) + ("" if right is None else f", accuracy {right:.1%}")

    def engine(self, modules: Any, **options: Any) -> Engine:
        """An engine at the configuration's precision; `options` as for `Engine`."""
        return Engine(modules, self.spec, dtype=self.config.precision, **options)

    def cut(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "ch cw 3"]:
        """The whole image, in the network's size."""
        crop: PersonCrop = self.config.data.eval_crop()
        return crop(image, Person.frame((image.shape[0], image.shape[1]), crop.size))[0]

    def shown(self, cut: UInt8[np.ndarray, "ch cw 3"]) -> UInt8[np.ndarray, "ch cw 3"]:
        """What the network sees, in RGB."""
        return cut[..., ::-1] if self.config.data.bgr else cut

    def predict(
        self,
        load: Callable[[], Any],
        source: str,
        output: Path,
        *,
        max_pixels: int = images.MAX_PIXELS,
        **others: Any,
    ) -> int:
        """Finds joints in files; see `predict.predict_inputs`. Pictures are taken one by one."""
        defaults = {"mode": "exact", "shapes": (), "side_by_side": False, "batch_size": 1}
        more = [name for name, value in others.items() if value != defaults.get(name, value)]
        if more:
            raise InputError(
                f"--mode=predict: {self.model} has no {' and no '.join(more)} to choose"
            )
        makers = self.engine, self.draw
        return predict.predict_inputs(load, *makers, source, output, max_pixels=max_pixels)

    def speed(self, size: tuple[int, int] | None = None) -> tuple[dict[str, Any], str]:
        """Times one pass of the network with random weights, without a flip test."""
        if not self.config.data.flip_test:
            return super().speed(size)
        data = dataclasses.replace(self.config.data, flip_test=False)
        return type(self)(dataclasses.replace(self.config, data=data)).speed(size)


SYSTEM = DynConvPose
