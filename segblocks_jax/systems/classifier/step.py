"""The training step of systems whose images have a label each: one program, over all devices."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Shaped

from segblocks_jax.data import Normalization, normalize
from segblocks_jax.nn import dropout_key, synchronized_batch_norm
from segblocks_jax.training import steps
from segblocks_jax.training.sharding import AXIS, data_mesh, put_batch, put_on_all
from segblocks_jax.training.state import TrainState

Batch = Mapping[str, Shaped[Array | np.ndarray, "n ..."]]
Loss = Callable[[Any, Array, Array, Array, Array], tuple[Array, steps.Metrics]]
"""``loss(modules, image, label, keys, progress) -> (loss, metrics)``; see `Classifier.loss`."""


class TrainStep:
    """Takes training steps: ``state, metrics = step(state, batch)``.

    Attributes:
        mesh: over which a step runs.
        programs: the one of the update, by None.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        optimizer: optax.GradientTransformation,
        config: Any,
        normalization: Normalization,
        loss: Loss,
        mesh: Mesh | None = None,
        report: steps.Report = lambda line: None,
        label: jax.ShapeDtypeStruct | None = None,
    ) -> None:
        """Compiles nothing yet.

        Arguments are as of SegBlocks' step. The configuration has `optim`, `precision` and `data.crop`, `loss` is
        that of a part of the batch, `label` the form of an image's; None: a class.
        """
        self.mesh = mesh or data_mesh()
        self._label = label or jax.ShapeDtypeStruct((), jnp.int32)
        self._graphdef, self._optimizer, self._config = graphdef, optimizer, config
        self._normalization, self._loss = normalization, loss
        steps.examples_per_part(config.optim, self.mesh)

        def update(
            state: TrainState, batch: Batch, number: None
        ) -> tuple[TrainState, steps.Metrics]:
            axis = AXIS if config.optim.sync_batch_norm else None
            with synchronized_batch_norm(axis):
                run = jax.shard_map(
                    self._update_on_device,
                    mesh=self.mesh,
                    in_specs=(P(), P(AXIS)),
                    out_specs=(P(), P()),
                    check_vma=False,
                )
                return run(state, batch)

        jitted = jax.jit(update, static_argnames="number", donate_argnums=0)
        self.programs: steps.Programs[None] = steps.Programs(jitted, lambda _: "the step", report)

    @property
    def compiled(self) -> set[None]:
        """Empty, or None for the one program."""
        return self.programs.compiled

    def place(self, state: TrainState) -> TrainState:
        """Puts a state on all devices, where the steps leave it too."""
        return put_on_all(state, self.mesh)

    def warm_up(self, state: TrainState) -> None:
        """Compiles the step; changes nothing."""
        count, sharding = self._config.optim.batch_size, NamedSharding(self.mesh, P(AXIS))
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "image": ((count, *self._config.data.crop, 3), jnp.uint8),
            "label": ((count, *self._label.shape), self._label.dtype),
        }
        batch = {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
            for name, (shape, dtype) in shapes.items()
        }
        self.programs.get(None, "warm-up", (state, batch))

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, steps.Metrics]:
        """One optimizer step. `state` is donated; `batch` is this process's part of the images."""
        arguments = (state, put_batch(batch, self.mesh))
        return self.programs.get(None, "the first batch", arguments)(*arguments)

    def _update_on_device(
        self, state: TrainState, batch: Batch
    ) -> tuple[TrainState, steps.Metrics]:
        optim = self._config.optim
        progress = state.step.astype(jnp.float32) / optim.steps

        def loss(params: nnx.State, stats: nnx.State, part: Any) -> tuple[Array, tuple]:
            modules = nnx.merge(self._graphdef, params, stats, copy=True)
            modules.train()
            batch, keys = part
            image = normalize(batch["image"], *self._normalization).astype(self._config.precision)
            with dropout_key(keys):
                value, metrics = self._loss(modules, image, batch["label"], keys, progress)
            _, after = nnx.state(modules, nnx.Param, ...)
            return value, (after, {"loss": value, **metrics})

        examples = batch, steps.example_keys(state, batch["image"].shape[0])
        grads, stats, metrics = steps.mean_gradient(loss, state, examples, optim)
        metrics["gradient_norm"] = optax.tree.norm(grads)
        after = steps.apply_gradient(self._optimizer, state, grads, stats, optim.ema)
        return after, metrics
