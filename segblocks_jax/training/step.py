"""The training step: decide, round the number of high blocks, run in blocks, one gradient for all.

A step is two jitted programs under `jax.shard_map` over the images: `decide` samples the policy's
actions; `update` runs the network on as many high blocks as the host then says, a static number, so
one executable a bucket is compiled. Each device decides its own grids; all run the same bucket.
"""

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
from segblocks_jax.nn import at_scale, dropout_key
from segblocks_jax.policies import Decision, advantage, fill_scores, quantise, surrogate_loss
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
        return decision, jax.lax.pmax(jnp.sum(decision.action, dtype=jnp.int32), AXIS)

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
            logits = at_scale(
                system.net, features, config.model.input_scale, system.net.output_stride
            )
            loss_map, valid = cross_entropy_map(logits, batch["label"])
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
                logits, decision.action, grid.mask, loss_map, valid
            )
            loss = task + policy_loss
            metrics |= policy_metrics
        return loss, {"loss": loss, **metrics}

    def _policy_loss(
        self,
        logits: Float[Array, "n gh gw"],
        action: Bool[Array, "n gh gw"],
        mask: Bool[Array, "n gh gw"],
        loss_map: Float[Array, "n h w"],
        valid: Bool[Array, "n h w"],
    ) -> tuple[Float[Array, ""], Metrics]:
        policy, semantics = self._config.policy, self._config.semantics
        _, gh, gw = mask.shape
        block_loss, has_valid = block_mean(loss_map, valid, (gh, gw), ignored=semantics.ignored)
        reward = advantage(
            block_loss,
            has_valid,
            mask,
            target=policy.target,
            weight=policy.sparsity_weight,
            axis_name=AXIS,
        )
        forced = mask != action if semantics.filling == "best" else None
        loss = surrogate_loss(logits, mask, reward.total, forced)
        probability = jax.nn.sigmoid(logits)
        return loss, {
            "loss_policy": loss,
            "advantage_spread": reward.total.std(),
            "probability_mean": probability.mean(),
            "probability_spread": probability.std(),
        }


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


def resolution_gain(
    system: nnx.Dict, image: Float[Array, "n h w 3"], label: Array, config: ExperimentConfig
) -> Float[Array, "n gh gw"]:
    """How much a block's mean loss falls when all blocks run high instead of low."""
    side = config.policy.block_size
    shape = (image.shape[0], image.shape[1] // side, image.shape[2] // side)
    means = []
    for high in (False, True):
        mask = jnp.full(shape, high)
        blocks = split(
            image.astype(config.precision),
            mask,
            num_high=mask.size * high,
            low_factor=config.policy.low_factor,
        )
        logits = combine(system.net(blocks), config.semantics.low_upsampling)
        loss_map, valid = cross_entropy_map(logits, label)
        means.append(block_mean(loss_map, valid, shape[1:], ignored=config.semantics.ignored)[0])
    return means[0] - means[1]
