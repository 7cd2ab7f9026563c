"""DynConv's classifiers as the training loop and entry points know them."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from segblocks_jax.adaptive.cost import count_macs
from segblocks_jax.data import normalize
from segblocks_jax.structured_config import Config
from segblocks_jax.systems.classifier import predict
from segblocks_jax.systems.classifier.evaluation import summarize
from segblocks_jax.systems.classifier.spec import BaseSpec
from segblocks_jax.systems.classifier.system import ImageClassifier
from segblocks_jax.systems.dynconv import pictures
from segblocks_jax.systems.dynconv.budget import budget_terms
from segblocks_jax.systems.dynconv.config import ExperimentConfig
from segblocks_jax.systems.dynconv.execution import Pass
from segblocks_jax.systems.dynconv.run import Costs, costs, run
from segblocks_jax.systems.dynconv.schedule import image_noise, temperature
from segblocks_jax.systems.dynconv.spec import ModelSpec
from segblocks_jax.tasks.classification.augmentation import CenterCrop
from segblocks_jax.tasks.classification.losses import cross_entropy
from segblocks_jax.training.sharding import AXIS
from segblocks_jax.training.steps import Metrics
from segblocks_jax.training.system import OnBatch


class DynConv(ImageClassifier):
    """Classification by residual networks that compute where their masks say so, within a budget."""

    config_type: ClassVar[type[Config]] = ExperimentConfig

    @property
    def spec(self) -> BaseSpec:
        """Of the network."""
        model = self.config.model
        return ModelSpec(**self.spec_fields(), width=model.width, masked=model.masked)

    def loss(
        self,
        modules: Any,
        image: Float[Array, "n h w 3"],
        label: Int[Array, "n"],
        keys: Array,
        progress: Float[Array, ""],
    ) -> tuple[Array, Metrics]:
        """Cross-entropy, and the budget loss times its weight; see `budget_terms`."""
        forward = self.drawn(keys, progress)
        logits = modules.net(image, forward)
        task = cross_entropy(logits, label, self.config.optim.label_smoothing).mean()
        right = (jnp.argmax(logits, -1) == label).mean(dtype=jnp.float32)
        return self.within_budget(forward, task, {"loss_task": task, "top1": right}, progress)

    def drawn(self, keys: Array, progress: Float[Array, ""]) -> Pass:
        """A pass in training, whose decisions are drawn by each image's key; `progress` as for `loss`."""
        masks = self.config.masks
        noise = image_noise(keys, masks, progress)
        return Pass(noise=noise, temperature=temperature(masks, progress))

    def within_budget(
        self, forward: Pass, task: Array, metrics: Metrics, progress: Float[Array, ""]
    ) -> tuple[Array, Metrics]:
        """A task's loss and metrics with those of the budget, for the masks of a pass; see `budget_terms`."""
        masks = self.config.masks
        if not forward.masks:
            return task, metrics
        cost = Costs.of(forward.blocks)
        budget = budget_terms(forward.masks, *cost, masks.target, progress, axis_name=AXIS)
        own = {
            "loss_budget_network": budget.network,
            "loss_budget_blocks": budget.block,
            "executed_share": budget.share,
        }
        return task + masks.weight * budget.loss, metrics | own

    def gmacs(self, modules: Any, outputs: Any = None) -> float:
        """Mean multiply-adds an image, in 10^9: with masks active everywhere, or what was executed for `outputs`."""
        shape = (1, *self.config.data.crop, 3)
        every = count_macs(modules.net, shape).total
        if outputs is None or not self.config.model.masked:
            return every / 1e9
        cost, shapes = costs(modules.net, shape)
        left_out = 1 - float(np.mean(outputs.values["executed_share"]))
        return (every - left_out * cost.total(shapes)) / 1e9

    def evaluate(self, modules: Any, *, on_batch: OnBatch | None = None) -> Any:
        """Accuracies and executed operations, also as shares of each block's."""
        outputs = self.outputs(modules, self.eval_source, on_batch=on_batch)
        found = outputs.values.get("block_shares", np.zeros((0, 1)))
        more = {f"share_block{i}": float(share) for i, share in enumerate(found.mean(1), 1)}
        return summarize(outputs, self.gmacs(modules, outputs), self.classes, more)

    def details(self, modules: Any, result: Any) -> dict[str, Any]:
        """The target, and the blocks' operations on an image, too."""
        cost, shapes = costs(modules.net, (1, *self.config.data.crop, 3))
        ones = [np.ones(shape, bool) for shape in shapes]
        own = {"target": self.config.masks.target, "block_macs": cost.by_block(ones)}
        return super().details(modules, result) | own

    def note(self, metrics: Mapping[str, float]) -> str:
        """The loss, the accuracy on the batch, and the share of operations."""
        share = metrics.get("executed_share")
        executed = "" if share is None else f", executed {share:.1%}"
        return super().note(metrics) + executed

    def cut(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "ch cw 3"]:
        """What the network sees of an image in prediction."""
        crop: CenterCrop = self.config.data.eval_crop()
        return crop(image)[0]

    def shown(self, cut: UInt8[np.ndarray, "ch cw 3"]) -> UInt8[np.ndarray, "ch cw 3"]:
        """What the network sees, in RGB."""
        return cut

    def draw(self, modules: Any) -> predict.Draw | None:
        """Pictures of each block's mask over the image, and of the computation at each pixel."""
        if not self.config.model.masked:
            return None
        normalization = self.config.data.normalization
        cost, _ = costs(modules.net, (1, *self.config.data.crop, 3))

        def draw(image: UInt8[np.ndarray, "h w 3"]) -> Mapping[str, UInt8[np.ndarray, "_ _ 3"]]:
            cut = self.cut(image)
            pixels = normalize(jnp.asarray(cut[None]), *normalization)
            _, masks = run(modules.net, pixels)
            return pictures.draw(self.shown(cut), jax.tree.map(np.asarray, masks), cost)

        return draw


SYSTEM = DynConv
