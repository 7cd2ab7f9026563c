"""The training step: devices, buckets, gradients."""

import jax
import numpy as np
import pytest
from flax import nnx
from tiny import batch, config, trainer

from segblocks_jax.policies import quantise
from segblocks_jax.training.step import AXIS


def mesh(devices):
    return jax.make_mesh(
        (devices,),
        (AXIS,),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:devices],
    )


def test_one_executable_a_bucket_and_the_loss_falls():
    settings = config("reinforce", optim={"steps": 12, "learning_rate": 3e-3})
    step, state = trainer(settings, mesh(1))
    losses, counts = [], []
    for _ in range(12):
        state, metrics = step(state, batch())
        losses.append(float(metrics["loss_task"]))
        counts.append(round(float(metrics["share_high"]) * 16))
    assert losses[-1] < 0.9 * losses[0]
    assert int(state.step) == 12
    assert step.compiled == set(counts)
    assert all(count == quantise(count, 16, 0.25) for count in counts)


def test_the_policy_gets_its_gradient_only_from_the_surrogate():
    settings = config("reinforce", policy={"sparsity_weight": 0.0})
    step, state = trainer(settings, mesh(1))
    before = jax.device_get(state.params["policy"])
    # With the same loss everywhere no block is better than another: without the sparsity term the
    # advantage is zero, and Adam moves nothing.
    ignored = batch()
    ignored["label"][:] = 255
    state, metrics = step(state, ignored)
    assert float(metrics["loss_policy"]) == 0
    flat = dict(nnx.to_flat_state(nnx.State(before)))
    for path, variable in nnx.to_flat_state(state.params["policy"]):
        decay = settings.optim.learning_rate * 1.01
        assert np.abs(np.asarray(variable[...]) - np.asarray(flat[path][...])).max() <= decay


def test_a_batch_that_does_not_divide_over_the_devices_is_refused():
    with pytest.raises(
        ValueError, match=r"optim.batch_size is 3; expected a multiple of the 4 devices"
    ):
        trainer(config(optim={"batch_size": 3}), mesh(4))


@pytest.mark.parametrize("policy", ["static", "oracle", "all_low"])
def test_every_policy_takes_a_step(policy):
    step, state = trainer(config(policy), mesh(1))
    state, metrics = step(state, batch())
    assert np.isfinite(float(metrics["loss"]))
    share = {"static": None, "all_low": 0.0}.get(policy, 0.5)
    assert share is None or float(metrics["share_high"]) == share
