"""The training step: decide, round the number of high blocks, run in blocks, one gradient for all.

A step is two jitted programs under `jax.shard_map` over the images: `decide` samples the policy's
actions; `update` runs the network on as many high blocks as the host then says, a static number, so
one executable a bucket is compiled. Each device decides its own grids; all run the same bucket.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, UInt8

from segblocks_jax.blocks import BlockGrid, combine, split
from segblocks_jax.data import Normalisation, normalize
from segblocks_jax.nn import dropout_key
from segblocks_jax.policies import (
    Decision,
    advantage,
    entropy,
    fill_scores,
    quantise,
    surrogate_loss,
)
from segblocks_jax.training.config import ExperimentConfig
from segblocks_jax.training.losses import (
    block_mean,
    bootstrapped_loss,
    cross_entropy_map,
    task_loss,
)
from segblocks_jax.training.state import TrainState

AXIS = "data"
Batch = Mapping[str, UInt8[Array | np.ndarray, "n ..."]]
TracedBatch = Mapping[str, UInt8[Array, "n ..."]]
Metrics = dict[str, Array]


def data_mesh() -> Mesh:
    """A mesh of all devices along the batch."""
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))


class TrainStep:
    """Runs training steps of an experiment: ``state, metrics = step(state, batch)``.

    Attributes:
        compiled: numbers of high blocks that an executable has been compiled for.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        optimizer: optax.GradientTransformation,
        config: ExperimentConfig,
        normalisation: Normalisation,
        mesh: Mesh | None = None,
    ) -> None:
        """`mesh` has one axis, over which the images of a batch are spread."""
        self.mesh = mesh or data_mesh()
        self.compiled: set[int | None] = set()
        self._graphdef, self._optimizer = graphdef, optimizer
        self._config, self._normalisation = config, normalisation
        if config.optim.batch_size % self.mesh.size:
            raise ValueError(
                f"optim.batch_size is {config.optim.batch_size}; expected a multiple of the"
                f" {self.mesh.size} devices"
            )
        sharded = functools.partial(jax.shard_map, mesh=self.mesh, check_vma=False)
        self._decide = jax.jit(
            sharded(self._decide_on_device, in_specs=(P(), P(AXIS)), out_specs=(P(AXIS), P()))
        )

        def update(
            state: TrainState, batch: TracedBatch, decision: Decision | None, num_high: int | None
        ) -> tuple[TrainState, Metrics]:
            run = functools.partial(self._update_on_device, num_high=num_high)
            return sharded(run, in_specs=(P(), P(AXIS), P(AXIS)), out_specs=(P(), P()))(
                state, batch, decision
            )

        self._update = jax.jit(update, static_argnames="num_high", donate_argnums=0)

    def place(self, state: TrainState) -> TrainState:
        """Puts a state on all devices, where the steps leave it too, so that none compiles twice."""
        return jax.device_put(state, NamedSharding(self.mesh, P()))

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One optimiser step. `state` is donated."""
        policy = self._config.policy
        decision, num_high = None, None
        if policy.name != "static":
            decision, count = self._decide(state, batch)
            blocks = decision.action.size // self.mesh.size
            num_high = quantise(int(count), blocks, policy.quantise_step)
        self.compiled.add(num_high)
        return self._update(state, batch, decision, num_high=num_high)

    def _system(self, params: nnx.State, stats: nnx.State, training: bool) -> nnx.Dict:
        system = nnx.merge(self._graphdef, params, stats, copy=True)
        (system.train if training else system.eval)()
        system.set_attributes(axis_name=AXIS, raise_if_not_found=False)
        return system

    def _key(self, state: TrainState) -> Array:
        key = jax.random.fold_in(state.key, state.step)
        return jax.random.fold_in(key, jax.lax.axis_index(AXIS))

    def _decide_on_device(
        self, state: TrainState, batch: TracedBatch
    ) -> tuple[Decision, Int[Array, ""]]:
        image = normalize(batch["image"], *self._normalisation)
        policy = self._system(state.params, state.stats, training=True).policy
        gain = None
        if policy.needs_gain:
            system = self._system(state.params, state.stats, training=False)
            gain = resolution_gain(system, image, batch["label"], self._config)
        decision = policy(image, self._key(state), gain)
        if self._config.policy.name == "reinforce" and self._config.policy.reward == "gain":
            low_loss = self._low_loss(state, image, batch["label"])
            decision = dataclasses.replace(decision, low_loss=low_loss)
        return decision, jax.lax.pmax(jnp.sum(decision.action, dtype=jnp.int32), AXIS)

    def _low_loss(
        self, state: TrainState, image: Float[Array, "n h w 3"], label: Array
    ) -> Float[Array, "n gh gw"]:
        """Block losses with all blocks low, every `gain_every` steps; inf on the others."""
        config = self._config

        def run() -> Array:
            # Normalised by its own batch, as the run is that it is compared with.
            system = self._system(state.params, state.stats, training=True)
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
        def loss(params: nnx.State) -> tuple[Array, tuple[nnx.State, Metrics]]:
            system = self._system(params, state.stats, training=True)
            key = self._key(state)
            with dropout_key(jax.random.fold_in(key, 2)):
                total, metrics = self._loss(system, batch, decision, num_high, key)
            return total, (nnx.state(system, nnx.BatchStat), metrics)

        grads, (stats, metrics) = jax.grad(loss, has_aux=True)(state.params)
        grads, metrics = jax.lax.pmean((grads, metrics), AXIS)
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
        num_high: int | None,
        key: Array,
    ) -> tuple[Float[Array, ""], Metrics]:
        config, semantics = self._config, self._config.semantics
        image = normalize(batch["image"], *self._normalisation)
        features = image.astype(config.precision)
        if decision is None:
            loss_map, valid = cross_entropy_map(system.net(features), batch["label"])
            task = _task_loss(loss_map, valid, config)
            return task, {"loss": task, "loss_task": task}
        scores = fill_scores(decision, semantics.filling, jax.random.fold_in(key, 1))
        grid = BlockGrid.from_mask(decision.action, num_high, scores, config.policy.low_factor)
        logits = combine(system.net(split(features, grid)), semantics.low_upsampling)
        loss_map, valid = cross_entropy_map(logits, batch["label"])
        loss = task = _task_loss(loss_map, valid, config)
        metrics = {"loss_task": task, "share_high": grid.mask.mean(dtype=jnp.float32)}
        if config.policy.name == "reinforce":
            logits = system.policy(image, key).scores
            policy_loss, policy_metrics = self._policy_loss(
                logits, decision, grid.mask, loss_map, valid
            )
            loss = task + policy_loss
            metrics |= policy_metrics
        return loss, {"loss": loss, **metrics}

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
            metrics |= mean_and_spread(name, values, AXIS)
        return loss, metrics


def _task_loss(loss_map: Array, valid: Array, config: ExperimentConfig) -> Float[Array, ""]:
    ignored = config.semantics.ignored
    if config.optim.loss == "bootstrapped":
        return bootstrapped_loss(loss_map, valid if ignored == "excluded" else None)
    loss = task_loss(loss_map, valid, ignored=ignored)
    if ignored == "counted":
        return loss
    # The mean of the devices' means is the mean over all valid pixels only with this weight.
    count = valid.sum(dtype=jnp.float32)
    return loss * (count / jnp.maximum(jax.lax.pmean(count, AXIS), 1))


def mean_and_spread(name: str, values: Float[Array, "..."], axis_name: str) -> Metrics:
    """``NAME_mean`` and ``NAME_spread``, the standard deviation, over the entries on all devices."""
    mean = jax.lax.pmean(values.mean(), axis_name)
    variance = jax.lax.pmean(jnp.square(values - mean).mean(), axis_name)
    return {f"{name}_mean": mean, f"{name}_spread": jnp.sqrt(variance)}


def block_grid(image: Float[Array, "n h w 3"], config: ExperimentConfig) -> tuple[int, int, int]:
    """(n, gh, gw) of an image batch."""
    n, h, w, _ = image.shape
    return n, h // config.policy.block_size, w // config.policy.block_size


def uniform_block_loss(
    system: nnx.Dict,
    image: Float[Array, "n h w 3"],
    label: Array,
    config: ExperimentConfig,
    *,
    high: bool,
) -> Float[Array, "n gh gw"]:
    """The mean loss of every block when all blocks run high, or all low."""
    mask = jnp.full(block_grid(image, config), high)
    blocks = split(
        image.astype(config.precision),
        mask,
        num_high=mask.size * high,
        low_factor=config.policy.low_factor,
    )
    logits = combine(system.net(blocks), config.semantics.low_upsampling)
    loss_map, valid = cross_entropy_map(logits, label)
    _, gh, gw = mask.shape
    return block_mean(loss_map, valid, (gh, gw), ignored=config.semantics.ignored)[0]


def resolution_gain(
    system: nnx.Dict, image: Float[Array, "n h w 3"], label: Array, config: ExperimentConfig
) -> Float[Array, "n gh gw"]:
    """How much a block's mean loss falls when all blocks run high instead of low."""
    low, high = (
        uniform_block_loss(system, image, label, config, high=high) for high in (False, True)
    )
    return low - high
