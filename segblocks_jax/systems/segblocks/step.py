"""The training step: decide, round the number of high blocks, run in blocks, one gradient for all.

A step is two jitted programs under `jax.shard_map` over the images: `decide` samples the policy's
actions; `update` runs the network on as many high blocks as the host then says, a static number, so
one executable per bucket is compiled. Each device decides its own grids; all run the same bucket. Random
numbers are an image's own, so the number of devices has no part in what is sampled or dropped.

With `optim.accumulate` k, the batch runs in k parts (`training.steps`). The task loss is that of the
whole batch. Batch norm, and the means that the advantage is relative to, are of one part, over all devices;
running statistics are updated k times.
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
from jaxtyping import Array, Float, Int, UInt8

from segblocks_jax.adaptive.buckets import buckets, round_to_bucket
from segblocks_jax.adaptive.decision import Decision
from segblocks_jax.data import Normalization, normalize
from segblocks_jax.nn import dropout_key, fold_in, synchronize, synchronized_batch_norm
from segblocks_jax.ops import extension
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.systems.segblocks.loss import ACTIONS, LOW_DROPOUT, Loss, TracedBatch
from segblocks_jax.systems.segblocks.resolution_gain import (
    block_grid,
    resolution_gain,
    uniform_block_loss,
)
from segblocks_jax.training import steps
from segblocks_jax.training.sharding import AXIS, data_mesh, put_batch, put_on_all
from segblocks_jax.training.state import TrainState

Batch = Mapping[str, UInt8[Array | np.ndarray, "n ..."]]


class TrainStep:
    """Takes training steps of an experiment: ``state, metrics = step(state, batch)``.

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
        report: steps.Report = lambda line: None,
        class_weights: tuple[float, ...] | None = None,
    ) -> None:
        """Compiles nothing yet.

        The graphdef is that of `create_state`, the optimizer the state's. The images of a batch are spread over
        the one axis of `mesh`, `AXIS`; default: all devices. `report` gets a line for each compilation of an update.
        `class_weights` are of the pixels' losses; default: all 1.
        """
        self.mesh = mesh or data_mesh()
        self._graphdef, self._optimizer = graphdef, optimizer
        self._config, self._normalization = config, normalization
        self._joint = AXIS if config.optim.sync_batch_norm else None
        self._loss = Loss(config, normalization, class_weights)
        self._images = steps.examples_per_part(config.optim, self.mesh)
        self.decide = jax.jit(
            self._sharded(self._decide_on_device, in_specs=(P(), P(AXIS)), out_specs=(P(AXIS), P()))
        )

        def update(
            state: TrainState, batch: TracedBatch, decision: Decision | None, num_high: int | None
        ) -> tuple[TrainState, steps.Metrics]:
            run = functools.partial(self._update_on_device, num_high=num_high)
            specs: dict[str, Any] = {"in_specs": (P(), P(AXIS), P(AXIS)), "out_specs": (P(), P())}
            return self._sharded(run, **specs)(state, batch, decision)

        jitted = jax.jit(update, static_argnames="num_high", donate_argnums=0)
        self.programs = steps.Programs(jitted, self._program_name, report)

    @property
    def compiled(self) -> set[int | None]:
        """Numbers of high blocks, per device and part, that an executable has been compiled for."""
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
        if self._config.policy.kind is None:
            return state, batch, None
        decided, _ = jax.eval_shape(self.decide, state, batch)
        decision = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), decided
        )
        return state, batch, decision

    def warm_up(self, state: TrainState) -> None:
        """Compiles for every number of high blocks that can occur; changes nothing."""
        numbers: tuple[int | None, ...] = (None,)
        if self._config.policy.kind is not None:
            numbers = buckets(self._blocks, self._config.policy.bucket_step)
        for num_high in numbers:
            self.programs.get(num_high, "warm-up", self.arguments(state))

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, steps.Metrics]:
        """One optimizer step. `state` is donated; `batch` is this process's part of the images."""
        placed = put_batch(batch, self.mesh)
        decision, num_high = None, None
        if self._config.policy.kind is not None:
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

    def _sharded(self, run: Any, **specs: Any) -> Any:
        """A function on the examples of each device, traced as the configuration says."""

        @functools.wraps(run)
        def traced(*arguments: Any) -> Any:
            implementation = self._config.model.implementation
            with extension.using(implementation), synchronized_batch_norm(self._joint):
                return run(*arguments)

        return jax.shard_map(traced, mesh=self.mesh, check_vma=False, **specs)

    def _system(self, params: nnx.State, stats: nnx.State, training: bool) -> nnx.Dict:
        if self._config.optim.freeze_network:
            params = nnx.State({**params, "net": jax.lax.stop_gradient(params["net"])})
        system = nnx.merge(self._graphdef, params, stats, copy=True)
        synchronize(system, self._joint)
        (system.train if training else system.eval)()
        if self._config.optim.freeze_network:
            system.net.eval()
        return system

    def _decide_on_device(
        self, state: TrainState, batch: TracedBatch
    ) -> tuple[Decision, Int[Array, ""]]:
        def decide(most: Array, part: tuple[TracedBatch, Array]) -> tuple[Array, Decision]:
            decision = self._decide_part(state, *part)
            count = jnp.sum(decision.action, dtype=jnp.int32)
            return jnp.maximum(most, count), decision

        examples = batch, steps.example_keys(state, batch["image"].shape[0])
        most, parts = steps.over_parts(
            decide, jnp.int32(0), examples, self._config.optim.accumulate
        )
        return steps.join_parts(parts), jax.lax.pmax(most, AXIS)

    def _decide_part(self, state: TrainState, batch: TracedBatch, keys: Array) -> Decision:
        image = normalize(batch["image"], *self._normalization)
        policy = self._system(state.params, state.stats, training=True).policy
        gain = None
        if policy.needs_labels:
            system = self._system(state.params, state.stats, training=False)
            gain = resolution_gain(system, image, batch["label"], self._config)
        decision = policy(image, fold_in(keys, ACTIONS), gain)
        if policy.learned and self._config.policy.learning == "supervised":
            gain = self._gain(state, image, batch["label"])
            decision = dataclasses.replace(decision, gain=gain)
        elif policy.learned and self._config.policy.reward == "gain":
            low_loss = self._low_loss(state, image, batch["label"], fold_in(keys, LOW_DROPOUT))
            decision = dataclasses.replace(decision, low_loss=low_loss)
        return decision

    def _gain(
        self, state: TrainState, image: Float[Array, "n h w 3"], label: Array
    ) -> Float[Array, "n gh gw"]:
        """What running high is worth in evaluation, every `gain_every` steps; NaN on the others."""
        config = self._config

        def run() -> Array:
            system = self._system(state.params, state.stats, training=False)
            return resolution_gain(system, image, label, config)

        def skip() -> Array:
            return jnp.full(block_grid(image, config), jnp.nan)

        return jax.lax.cond(state.step % config.policy.gain_every == 0, run, skip)

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
        self, state: TrainState, batch: TracedBatch, decision: Decision | None, num_high: int | None
    ) -> tuple[TrainState, steps.Metrics]:
        optim = self._config.optim
        weight = self._loss.weight(batch["label"]).sum()
        mean_weight = jax.lax.pmean(weight, AXIS) / optim.accumulate

        def loss(params: nnx.State, stats: nnx.State, part: Any) -> tuple[Array, tuple]:
            system = self._system(params, stats, training=True)
            batch, decision, keys = part
            value, metrics = self._loss(system, batch, decision, keys, mean_weight, num_high)
            return value, (nnx.state(system, nnx.Not(nnx.Param)), metrics)

        examples = batch, decision, steps.example_keys(state, batch["image"].shape[0])
        grads, stats, metrics = steps.mean_gradient(loss, state, examples, optim)
        metrics["gradient_norm"] = optax.tree.norm(grads)
        after = steps.apply_gradient(self._optimizer, state, grads, stats, optim.ema)
        return after, metrics
