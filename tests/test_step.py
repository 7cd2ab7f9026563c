"""The training step: devices, buckets, gradients."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import take_steps
from flax import nnx
from tiny import batch, config, trainer

import segblocks_jax as sb
from segblocks_jax.adaptive.buckets import buckets, round_to_bucket
from segblocks_jax.data import NORMALIZATION, normalize
from segblocks_jax.nn.scope import rematerialization
from segblocks_jax.systems.segblocks.resolution_gain import uniform_block_loss
from segblocks_jax.training.sharding import AXIS


def mesh(devices):
    return jax.make_mesh(
        (devices,),
        (AXIS,),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:devices],
    )


def small(report=lambda line: None, **changes):
    """(step, state) of a network that compiles fast."""
    return take_steps.trainer(config(**changes), mesh(1), report)


@pytest.mark.slow
def test_operations_carry_the_names_of_what_they_belong_to():
    step, state = trainer(config("reinforce"), mesh(1))
    _, metrics = step(state, batch())
    assert np.isfinite(metrics["loss"])
    (number,) = step.compiled
    text = step.programs.get(number, "", ()).as_text()
    names = re.findall(r'op_name="([^"]*)"', text)
    operations = (
        "split block_conv block_pad max_pool upsample2 combine policy policy_loss loss optimizer"
    )
    for operation in operations.split():
        assert any(re.search(rf"\b{operation}\b", name) for name in names), operation
    assert any(re.search(r"backbone\W+layer2\W+block_conv", name) for name in names)


@pytest.mark.slow
def test_no_convolution_runs_in_a_loop_unless_it_accumulates():
    # XLA's CPU convolutions are several times as slow inside one.
    for accumulate in (1, 2):
        step, state = trainer(config("static", optim={"accumulate": accumulate}), mesh(1))
        text = step.programs.get(None, "", step.arguments(state)).as_text()
        names = re.findall(r'op_name="([^"]*/conv_general_dilated)"', text)
        assert names
        assert any("/while/" in name for name in names) == (accumulate > 1)


def test_one_executable_a_bucket_and_the_loss_falls():
    step, state = small(optim={"steps": 12, "learning_rate": 3e-3})
    losses, counts = [], []
    for _ in range(12):
        state, metrics = step(state, batch())
        losses.append(float(metrics["loss_task"]))
        counts.append(round(float(metrics["high_fraction"]) * 16))
    assert losses[-1] < 0.9 * losses[0]
    assert int(state.step) == 12
    assert step.compiled == set(counts)
    assert all(count == round_to_bucket(count, 16, 0.25) for count in counts)


def test_the_policy_gets_its_gradient_only_from_the_surrogate():
    settings = config(policy={"sparsity_weight": 0.0})
    step, state = take_steps.trainer(settings, mesh(1))
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


@pytest.mark.slow
def test_the_low_run_comes_on_a_schedule_in_the_programs_that_there_are():
    settings = config(policy={"reward": "gain", "gain_every": 2, "entropy": 0.01})
    step, state = take_steps.trainer(settings, mesh(1))

    @nnx.jit
    def low_loss(system, image, label):
        return uniform_block_loss(system, image, label, settings, high=False)

    for number in range(3):
        decision, _ = step.decide(state, batch())
        if number % 2:
            assert np.isposinf(decision.low_loss).all()
        else:
            system = step._system(state.params, state.stats, training=True)
            image = normalize(batch()["image"], *NORMALIZATION["street_scenes"])
            label = jnp.asarray(batch()["label"])
            expected = low_loss(system, image, label)
            np.testing.assert_allclose(decision.low_loss, expected, rtol=1e-3)
        state, metrics = step(state, batch())
        assert bool(metrics["advantage_task_std"] > 0) == (number % 2 == 0)
    assert "stablehlo.case" in step.decide.lower(state, batch()).as_text()  # One for all steps.


def test_a_batch_that_does_not_divide_over_the_devices_is_refused():
    with pytest.raises(
        ValueError, match=r"optim.batch_size is 3; expected a multiple of the 4 devices"
    ):
        trainer(config(optim={"batch_size": 3}), mesh(4))


@pytest.mark.family("oracle")
@pytest.mark.parametrize("policy", ["static", "oracle", "all_low"])
def test_every_policy_takes_a_step(policy):
    step, state = small(policy_name=policy)
    state, metrics = step(state, batch())
    assert np.isfinite(float(metrics["loss"]))
    share = {"static": None, "all_low": 0.0}.get(policy, 0.5)
    assert share is None or float(metrics["high_fraction"]) == share


def test_warm_up_compiles_every_bucket_and_steps_no_more():
    lines = []
    step, state = small(report=lines.append, policy={"bucket_step": 0.5})
    step.warm_up(state)
    assert step.compiled == set(buckets(16, 0.5)) == {0, 8, 16}
    assert len(lines) == 3
    pattern = r"compiled the step for 8 of a device's 16 blocks high in [\d.]+ s: warm-up"
    assert re.fullmatch(pattern, lines[1])
    for i in range(3):
        state, _ = step(state, batch(seed=i))
    assert len(lines) == 3


@pytest.mark.slow
def test_bfloat16_is_for_activations_alone():
    full, half = (small(precision=precision) for precision in ("float32", "bfloat16"))
    (decision, _), (expected, _) = (step.decide(state, batch()) for step, state in (half, full))
    for name in ("action", "scores"):
        np.testing.assert_array_equal(getattr(decision, name), getattr(expected, name))
    assert "bf16" not in str(jax.make_jaxpr(half[0].decide)(half[1], batch()))
    (state, metrics), (_, exact) = (step(state, batch()) for step, state in (half, full))
    for value in jax.tree.leaves((state.params, state.stats, state.opt_state, metrics)):
        assert value.dtype in (np.float32, np.int32)
    assert 0 < abs(float(metrics["loss_task"]) / float(exact["loss_task"]) - 1) < 0.01


@pytest.mark.family("swiftnet_rn18")
@pytest.mark.parametrize(
    "name",
    ["swiftnet_rn18", "swiftnet_rn50", "swiftnet_efflite1", "swiftnet_mobilenetv2", "lrnnet"],
)
def test_every_network_can_be_rematerialized(name):
    net = nnx.eval_shape(lambda: sb.create_model(name, rngs=nnx.Rngs(0)))
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)

    def loss(params, rest, image):
        with rematerialization():
            return nnx.merge(graphdef, params, rest, copy=True)(image).mean()

    image = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.float32)
    traced = str(jax.make_jaxpr(jax.grad(loss))(params, rest, image))
    assert len(re.findall(r"\b(?:checkpoint|remat2?)\[", traced)) >= 9


@pytest.mark.slow
def test_rematerialization_takes_the_same_step():
    # What it saves depends on the compiler: benchmarks/training.py measures it.
    results = []
    for rematerialize in (False, True):
        step, state = small(rematerialize=rematerialize)
        traced = str(
            jax.make_jaxpr(lambda *x, f=step.programs: f.function(*x, num_high=8))(
                *step.arguments(state)
            )
        )
        parts = re.findall(r"\b(?:checkpoint|remat2?)\[", traced)
        assert len(parts) == 3 * rematerialize  # Two units, and the loss.
        state, metrics = step(state, batch())
        results.append((jax.device_get((state.params, state.stats)), metrics["gradient_norm"]))
    np.testing.assert_allclose(results[1][1], results[0][1], rtol=1e-5)
    for a, b in zip(*(jax.tree.leaves(kept) for kept, _ in results), strict=True):
        # Where a gradient is all rounding, Adam makes a whole step of it.
        assert np.mean(np.abs(a - b) > 1e-5) < 0.01
