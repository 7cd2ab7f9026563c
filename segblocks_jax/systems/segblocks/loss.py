"""The loss of a training step: the task's, and the surrogate that trains the policy."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, UInt8

from segblocks_jax.adaptive.decision import Decision, fill_scores
from segblocks_jax.adaptive.estimators import entropy, regret_loss, surrogate_loss
from segblocks_jax.blocks import BlockGrid, combine, split
from segblocks_jax.data import Normalization, normalize
from segblocks_jax.nn import at_scale, dropout_key, fold_in, rematerialization
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.systems.segblocks.policies import advantage
from segblocks_jax.tasks.segmentation.head_losses import AUXILIARY, boundary_map, pidnet_loss
from segblocks_jax.tasks.segmentation.labels import IGNORE
from segblocks_jax.tasks.segmentation.losses import (
    block_mean,
    bootstrapped_loss,
    cross_entropy_map,
    task_loss,
)
from segblocks_jax.training.sharding import AXIS
from segblocks_jax.training.steps import Metrics

# What an image's key is folded with, by purpose. The key itself draws nothing.
ACTIONS, FILLING, DROPOUT, LOW_DROPOUT = range(4)

TracedBatch = Mapping[str, UInt8[Array, "n ..."]]


@dataclasses.dataclass(frozen=True)
class Loss:
    """The loss of the images that a device runs at a time, and metrics."""

    config: ExperimentConfig
    normalization: Normalization
    class_weights: tuple[float, ...] | None = None

    def weight(self, label: UInt8[Array, "n h w"]) -> Float[Array, "n h w"]:
        """Of every pixel's loss: its class's, 0 where it is ignored."""
        if self.class_weights is None:
            return (label != IGNORE).astype(jnp.float32)
        by_label = np.zeros(256, np.float32)
        by_label[: len(self.class_weights)] = self.class_weights
        return jnp.asarray(by_label)[label]

    def __call__(
        self,
        system: nnx.Dict,
        batch: TracedBatch,
        decision: Decision | None,
        keys: Array,
        mean_weight: Float[Array, ""],
        num_high: int | None,
    ) -> tuple[Float[Array, ""], Metrics]:
        """The loss and metrics of a system in training mode; `keys` are one per image.

        `decision` says which blocks are wanted high, None for whole images; `num_high` how many run high.
        `mean_weight` is the mean, over all devices and parts, of the sum of their pixels' weights.
        """
        config, semantics = self.config, self.config.semantics
        image = normalize(batch["image"], *self.normalization)
        features = image.astype(config.precision)
        grid = None
        if decision is not None:
            scores = fill_scores(decision, semantics.filling, fold_in(keys, FILLING))
            grid = BlockGrid.from_mask(decision.action, num_high, scores, config.policy.low_factor)
        heads = self._heads(system, features, grid, fold_in(keys, DROPOUT))
        loss_map, valid = self._map(heads["main"], batch["label"])
        loss = task = self._task(heads, loss_map, valid, batch["label"], mean_weight)
        metrics = {"loss_task": task}
        if grid is not None:
            metrics["high_fraction"] = grid.mask.mean(dtype=jnp.float32)
        if decision is not None and grid is not None and system.policy.learned:
            logits = system.policy(image, fold_in(keys, ACTIONS)).scores
            price = system.policy.price
            given = None if price is None else price[...]
            policy_loss, more = self._policy_loss(
                logits, decision, grid.mask, loss_map, valid, given
            )
            loss = task + policy_loss
            metrics |= more
            if given is not None:
                metrics["price"] = given
                system.policy.move_price(jax.lax.pmean(metrics["high_fraction"], AXIS))
        return loss, {"loss": loss, **metrics}

    def _heads(
        self, system: nnx.Dict, features: Array, grid: BlockGrid | None, keys: Array
    ) -> dict[str, Float[Array, "n h w _k"]]:
        """The logits of `main`, and of the heads that training alone uses."""
        net = system.net

        def run(x: Any) -> dict[str, Any]:
            return net.heads(x) if self.config.model.auxiliary else {"main": net(x)}

        with dropout_key(keys), rematerialization(self.config.rematerialize):
            if grid is None:
                return at_scale(run, features, self.config.model.input_scale, net.output_stride)
            upsampling = self.config.semantics.low_upsampling
            blocks = run(split(features, grid))
            return {name: combine(x, upsampling) for name, x in blocks.items()}

    def _map(
        self, logits: Float[Array, "n h w k"], label: Array
    ) -> tuple[Float[Array, "n height width"], Bool[Array, "n height width"]]:
        # Logits at full size are the largest arrays of all.
        losses = cross_entropy_map
        return (jax.checkpoint(losses) if self.config.rematerialize else losses)(logits, label)

    def _task(
        self,
        heads: Mapping[str, Array],
        loss_map: Array,
        valid: Array,
        label: Array,
        mean_weight: Array,
    ) -> Float[Array, ""]:
        if "d" in heads:
            weights = self.class_weights
            return pidnet_loss(heads, label, boundary_map(label), class_weights=weights).total

        def mean(losses: Array) -> Array:
            if self.class_weights is not None:
                losses = losses * self.weight(label)
            return _task_loss(losses, valid, mean_weight, self.config)

        loss = mean(loss_map)
        if "extra" in heads:
            loss = loss + AUXILIARY * mean(self._map(heads["extra"], label)[0])
        return loss

    def _policy_loss(
        self,
        logits: Array,
        decision: Decision,
        mask: Array,
        loss_map: Array,
        valid: Array,
        price: Array | None,
    ) -> tuple[Float[Array, ""], Metrics]:
        policy, semantics = self.config.policy, self.config.semantics
        _, gh, gw = mask.shape
        block_loss, has_valid = block_mean(loss_map, valid, (gh, gw), ignored=semantics.ignored)
        reward, low = policy.full_reward(), decision.low_loss
        terms = advantage(
            block_loss, has_valid, mask, reward, low_loss=low, price=price, axis_name=AXIS
        )
        forced = mask != decision.action if semantics.filling == "best" else None
        uncertainty = entropy(logits)
        if decision.gain is None:
            loss = surrogate_loss(logits, mask, terms.total, forced)
        else:
            known = has_valid & jnp.isfinite(decision.gain)
            loss = regret_loss(logits, decision.gain, known, policy.target, AXIS)
            loss = policy.gain_every * loss
        if policy.entropy:
            loss = loss - policy.entropy * uncertainty.mean()
        metrics = {"loss_policy": loss, "entropy": uncertainty.mean()}
        watched = {
            "advantage": terms.total,
            "advantage_task": terms.task,
            "advantage_sparsity": terms.sparsity,
            "probability": jax.nn.sigmoid(logits),
        }
        for name, values in watched.items():
            metrics |= mean_and_std(name, values, AXIS)
        return loss, metrics


def _task_loss(
    loss_map: Array, valid: Array, mean_weight: Array, config: ExperimentConfig
) -> Float[Array, ""]:
    """Such that its mean over devices and parts is the loss of the whole batch."""
    ignored = config.semantics.ignored
    if config.optim.loss == "bootstrapped":
        return bootstrapped_loss(loss_map, valid if ignored == "excluded" else None)
    if ignored == "counted":
        return task_loss(loss_map, valid, ignored=ignored)
    # Divided by the mean weight of all parts, not by its own: parts with more valid pixels weigh more.
    return loss_map.sum() / jnp.where(mean_weight > 0, mean_weight, 1)


def mean_and_std(name: str, values: Float[Array, "..."], axis_name: str) -> Metrics:
    """``NAME_mean`` and ``NAME_std``, the standard deviation, over the entries on all devices."""
    mean = jax.lax.pmean(values.mean(), axis_name)
    variance = jax.lax.pmean(jnp.square(values - mean).mean(), axis_name)
    return {f"{name}_mean": mean, f"{name}_std": jnp.sqrt(variance)}
