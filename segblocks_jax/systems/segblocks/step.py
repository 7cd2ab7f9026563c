"""The training step: decide, round the number of high blocks, run in blocks, one gradient for all.

A step is two jitted programs under `jax.shard_map` over the images: `decide` samples the policy's
actions; `update` runs the network on as many high blocks as the host then says, a static number, so
one executable a bucket is compiled. Each device decides its own grids; all run the same bucket. Random
numbers are an image's own, so the number of devices has no part in what is sampled or dropped.

With `optim.accumulate` k, the batch runs in k parts, one after the other, and the optimizer takes the mean
of their gradients. The task loss is that of the whole batch. Batch norm, and the means that the advantage
is relative to, are of one part, over all devices; running statistics are updated k times. Part j holds
the images j, j + k, j + 2k, ..., on any number of devices.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, UInt8

from segblocks_jax.adaptive.buckets import buckets, round_to_bucket
from segblocks_jax.adaptive.decision import Decision, fill_scores
from segblocks_jax.adaptive.estimators import entropy, surrogate_loss
from segblocks_jax.blocks import BlockGrid, combine, split
from segblocks_jax.data import Normalization, normalize
from segblocks_jax.errors import InvalidInputError
from segblocks_jax.nn import (
    at_scale,
    dropout_key,
    fold_in,
    image_keys,
    rematerialization,
    synchronized_batch_norm,
)
from segblocks_jax.ops import extension
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.systems.segblocks.policies import advantage
from segblocks_jax.systems.segblocks.resolution_gain import (
    block_grid,
    resolution_gain,
    uniform_block_loss,
)
from segblocks_jax.tasks.segmentation.labels import IGNORE
from segblocks_jax.tasks.segmentation.losses import (
    block_mean,
    bootstrapped_loss,
    cross_entropy_map,
    task_loss,
)
from segblocks_jax.training.compilation import Programs, Report
from segblocks_jax.training.sharding import AXIS, data_mesh, put_batch, put_on_all
from segblocks_jax.training.state import TrainState

# What an image's key is folded with, by purpose. The key itself draws nothing.
_ACTIONS, _FILLING, _DROPOUT, _LOW_DROPOUT = range(4)

Batch = Mapping[str, UInt8[Array | np.ndarray, "n ..."]]
TracedBatch = Mapping[str, UInt8[Array, "n ..."]]
Metrics = dict[str, Array]


class TrainStep:
    """Runs training steps of an experiment: ``state, metrics = step(state, batch)``.

    Attributes:
        mesh: over which a step runs.
        decide: jitted, state and a batch on the mesh -> a decision, and the most high blocks of a device.
        programs: of the update, by number of high blocks.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        optimizer: optax.GradientTransformation,
        config: ExperimentConfig,
        normalization: Normalization,
        mesh: Mesh | None = None,
        report: Report = lambda line: None,
    ) -> None:
        """Compiles nothing yet.

        Args:
            graphdef: of the system, from `create_state`.
            optimizer: the state's.
            config: of the experiment.
            normalization: of the images.
            mesh: has one axis, `AXIS`, over which the images of a batch are spread; default: all devices.
            report: gets a line for each compilation of an update.
        """
        self.mesh = mesh or data_mesh()
        self._graphdef, self._optimizer = graphdef, optimizer
        self._config, self._normalization = config, normalization
        optim = config.optim
        if optim.batch_size % (self.mesh.size * optim.accumulate):
            raise InvalidInputError(
                f"optim.batch_size is {optim.batch_size}; expected a multiple of the"
                f" {self.mesh.size} devices"
                + (f" times optim.accumulate, {optim.accumulate}" if optim.accumulate > 1 else "")
            )
        self._images = optim.batch_size // self.mesh.size // optim.accumulate

        def sharded(run: Any, **specs: Any) -> Any:
            @functools.wraps(run)
            def traced(*arguments: Any) -> Any:
                axis = AXIS if optim.sync_batch_norm else None
                with extension.using(config.model.implementation), synchronized_batch_norm(axis):
                    return run(*arguments)

            return jax.shard_map(traced, mesh=self.mesh, check_vma=False, **specs)

        self.decide = jax.jit(
            sharded(self._decide_on_device, in_specs=(P(), P(AXIS)), out_specs=(P(AXIS), P()))
        )

        def update(
            state: TrainState, batch: TracedBatch, decision: Decision | None, num_high: int | None
        ) -> tuple[TrainState, Metrics]:
            run = functools.partial(self._update_on_device, num_high=num_high)
            return sharded(run, in_specs=(P(), P(AXIS), P(AXIS)), out_specs=(P(), P()))(
                state, batch, decision
            )

        jitted = jax.jit(update, static_argnames="num_high", donate_argnums=0)
        self.programs = Programs(jitted, self._program_name, report)

    @property
    def compiled(self) -> set[int | None]:
        """Numbers of high blocks, a device and part, that an executable has been compiled for."""
        return self.programs.compiled

    def place(self, state: TrainState) -> TrainState:
        """Puts a state on all devices, where the steps leave it too, so that none compiles twice."""
        return put_on_all(state, self.mesh)

    def arguments(self, state: TrainState) -> tuple[TrainState, Any, Any]:
        """What `programs` take: the state, and the shapes of a batch and a decision."""
        height, width = self._config.data.crop
        size = (self._config.optim.batch_size, height, width)
        sharding = NamedSharding(self.mesh, P(AXIS))
        batch = {
            name: jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=sharding)
            for name, shape in (("image", (*size, 3)), ("label", size))
        }
        if self._config.policy.name == "static":
            return state, batch, None
        decided, _ = jax.eval_shape(self.decide, state, batch)
        decision = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), decided
        )
        return state, batch, decision

    def warm_up(self, state: TrainState) -> None:
        """Compiles for every number of high blocks that can occur; changes nothing."""
        numbers: tuple[int | None, ...] = (None,)
        if self._config.policy.name != "static":
            numbers = buckets(self._blocks, self._config.policy.bucket_step)
        for num_high in numbers:
            self.programs.get(num_high, "warm-up", self.arguments(state))

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One optimizer step. `state` is donated; `batch` is this process's part of the images."""
        placed = put_batch(batch, self.mesh)
        decision, num_high = None, None
        if self._config.policy.name != "static":
            decision, count = self.decide(state, placed)
            num_high = round_to_bucket(int(count), self._blocks, self._config.policy.bucket_step)
        arguments = (state, placed, decision)
        program = self.programs.get(num_high, "the first batch that needs it", arguments)
        return program(*arguments)

    @property
    def _blocks(self) -> int:
        """Blocks of the images that a device runs at a time."""
        height, width = self._config.data.crop
        side = self._config.policy.block_size
        return self._images * (height // side) * (width // side)

    def _program_name(self, num_high: int | None) -> str:
        if num_high is None:
            return "the step"
        return f"the step for {num_high} of a device's {self._blocks} blocks high"

    def _system(self, params: nnx.State, stats: nnx.State, training: bool) -> nnx.Dict:
        system = nnx.merge(self._graphdef, params, stats, copy=True)
        (system.train if training else system.eval)()
        return system

    def _over_parts(self, run: Any, carry: Any, tree: Any) -> tuple[Any, Any]:
        """`jax.lax.scan` over the parts of a device's images that run one after the other."""
        k = self._config.optim.accumulate

        def split_up(x: Array) -> Array:
            return x.reshape(-1, k, *x.shape[1:]).swapaxes(0, 1)

        if k == 1:  # Without a loop: inside one XLA's CPU convolutions are several times slower.
            carry, out = run(carry, tree)
            return carry, jax.tree.map(lambda x: x[None], out)
        return jax.lax.scan(run, carry, jax.tree.map(split_up, tree))

    def _keys(self, state: TrainState, images: int) -> Array:
        """A key an image, by its number in the batch of all devices."""
        key = jax.random.fold_in(state.key, state.step)
        first = jax.lax.axis_index(AXIS) * images
        return image_keys(key, first + jnp.arange(images))

    def _decide_on_device(
        self, state: TrainState, batch: TracedBatch
    ) -> tuple[Decision, Int[Array, ""]]:
        def decide(most: Array, part: tuple[TracedBatch, Array]) -> tuple[Array, Decision]:
            decision = self._decide_part(state, *part)
            count = jnp.sum(decision.action, dtype=jnp.int32)
            return jnp.maximum(most, count), decision

        keys = self._keys(state, batch["image"].shape[0])
        most, parts = self._over_parts(decide, jnp.int32(0), (batch, keys))
        decision = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), parts)
        return decision, jax.lax.pmax(most, AXIS)

    def _decide_part(self, state: TrainState, batch: TracedBatch, keys: Array) -> Decision:
        image = normalize(batch["image"], *self._normalization)
        policy = self._system(state.params, state.stats, training=True).policy
        gain = None
        if policy.needs_labels:
            system = self._system(state.params, state.stats, training=False)
            gain = resolution_gain(system, image, batch["label"], self._config)
        decision = policy(image, fold_in(keys, _ACTIONS), gain)
        if self._config.policy.name == "reinforce" and self._config.policy.reward == "gain":
            low_loss = self._low_loss(state, image, batch["label"], fold_in(keys, _LOW_DROPOUT))
            decision = dataclasses.replace(decision, low_loss=low_loss)
        return decision

    def _low_loss(
        self, state: TrainState, image: Float[Array, "n h w 3"], label: Array, keys: Array
    ) -> Float[Array, "n gh gw"]:
        """Block losses with all blocks low, every `gain_every` steps; inf on the others."""
        config = self._config

        def run() -> Array:
            # Normalized by its own batch, as the run is that it is compared with.
            system = self._system(state.params, state.stats, training=True)
            with dropout_key(keys):
                return uniform_block_loss(system, image, label, config, high=False)

        def skip() -> Array:
            return jnp.full(block_grid(image, config), jnp.inf)

        return jax.lax.cond(state.step % config.policy.gain_every == 0, run, skip)

    def _update_on_device(
        self,
        state: TrainState,
        batch: TracedBatch,
        decision: Decision | None,
        num_high: int | None,
    ) -> tuple[TrainState, Metrics]:
        optim = self._config.optim
        valid = jnp.sum(batch["label"] != IGNORE, dtype=jnp.float32)
        mean_valid = jax.lax.pmean(valid, AXIS) / optim.accumulate

        def add(carry: tuple, part: tuple) -> tuple[tuple, Metrics]:
            stats, total = carry
            batch, decision, keys = part

            def loss(params: nnx.State) -> tuple[Array, tuple[nnx.State, Metrics]]:
                system = self._system(params, stats, training=True)
                value, metrics = self._loss(system, batch, decision, keys, mean_valid, num_high)
                return value, (nnx.state(system, nnx.BatchStat), metrics)

            grads, (stats, metrics) = jax.grad(loss, has_aux=True)(state.params)
            return (stats, jax.tree.map(jnp.add, total, grads)), metrics

        keys = self._keys(state, batch["image"].shape[0])
        nothing = jax.tree.map(jnp.zeros_like, state.params)
        (stats, total), parts = self._over_parts(
            add, (state.stats, nothing), (batch, decision, keys)
        )
        grads = jax.tree.map(lambda x: x / optim.accumulate, total)
        metrics = jax.tree.map(lambda x: x.mean(0), parts)
        grads, metrics = jax.lax.pmean((grads, metrics), AXIS)
        if not optim.sync_batch_norm:
            stats = jax.lax.pmean(stats, AXIS)
        with jax.numpy_dtype_promotion("standard"):  # Adam's bias correction mixes types.
            updates, opt_state = self._optimizer.update(grads, state.opt_state, state.params)
        metrics["gradient_norm"] = optax.tree.norm(grads)
        new = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            stats=stats,
            opt_state=opt_state,
            key=state.key,
        )
        return new, metrics

    def _loss(
        self,
        system: nnx.Dict,
        batch: TracedBatch,
        decision: Decision | None,
        keys: Array,
        mean_valid: Float[Array, ""],
        num_high: int | None,
    ) -> tuple[Float[Array, ""], Metrics]:
        config, semantics = self._config, self._config.semantics
        image = normalize(batch["image"], *self._normalization)
        features = image.astype(config.precision)
        grid = None
        if decision is not None:
            scores = fill_scores(decision, semantics.filling, fold_in(keys, _FILLING))
            grid = BlockGrid.from_mask(decision.action, num_high, scores, config.policy.low_factor)
        logits = self._logits(system, features, grid, fold_in(keys, _DROPOUT))
        # Logits at full size are the largest arrays of all.
        losses = jax.checkpoint(cross_entropy_map) if config.rematerialize else cross_entropy_map
        loss_map, valid = losses(logits, batch["label"])
        loss = task = _task_loss(loss_map, valid, mean_valid, config)
        metrics = {"loss_task": task}
        if grid is not None:
            metrics["high_fraction"] = grid.mask.mean(dtype=jnp.float32)
        if decision is not None and grid is not None and config.policy.name == "reinforce":
            logits = system.policy(image, fold_in(keys, _ACTIONS)).scores
            policy_loss, policy_metrics = self._policy_loss(
                logits, decision, grid.mask, loss_map, valid
            )
            loss = task + policy_loss
            metrics |= policy_metrics
        return loss, {"loss": loss, **metrics}

    def _logits(
        self, system: nnx.Dict, features: Array, grid: BlockGrid | None, keys: Array
    ) -> Float[Array, "n h w k"]:
        with dropout_key(keys), rematerialization(self._config.rematerialize):
            if grid is None:
                scale = self._config.model.input_scale
                return at_scale(system.net, features, scale, system.net.output_stride)
            blocks = system.net(split(features, grid))
            return combine(blocks, self._config.semantics.low_upsampling)

    def _policy_loss(
        self,
        logits: Float[Array, "n gh gw"],
        decision: Decision,
        mask: Bool[Array, "n gh gw"],
        loss_map: Float[Array, "n h w"],
        valid: Bool[Array, "n h w"],
    ) -> tuple[Float[Array, ""], Metrics]:
        policy, semantics = self._config.policy, self._config.semantics
        _, gh, gw = mask.shape
        block_loss, has_valid = block_mean(loss_map, valid, (gh, gw), ignored=semantics.ignored)
        terms = advantage(
            block_loss,
            has_valid,
            mask,
            policy.full_reward(),
            low_loss=decision.low_loss,
            axis_name=AXIS,
        )
        forced = mask != decision.action if semantics.filling == "best" else None
        uncertainty = entropy(logits)
        loss = surrogate_loss(logits, mask, terms.total, forced)
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
    loss_map: Array, valid: Array, mean_valid: Array, config: ExperimentConfig
) -> Float[Array, ""]:
    """Such that its mean over devices and parts is the loss of the whole batch."""
    ignored = config.semantics.ignored
    if config.optim.loss == "bootstrapped":
        return bootstrapped_loss(loss_map, valid if ignored == "excluded" else None)
    if ignored == "counted":
        return task_loss(loss_map, valid, ignored=ignored)
    # Divided by the mean number of valid pixels, not by its own: parts with more of them weigh more.
    return loss_map.sum() / jnp.maximum(mean_valid, 1)


def mean_and_std(name: str, values: Float[Array, "..."], axis_name: str) -> Metrics:
    """``NAME_mean`` and ``NAME_std``, the standard deviation, over the entries on all devices."""
    mean = jax.lax.pmean(values.mean(), axis_name)
    variance = jax.lax.pmean(jnp.square(values - mean).mean(), axis_name)
    return {f"{name}_mean": mean, f"{name}_std": jnp.sqrt(variance)}
