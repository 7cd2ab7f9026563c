"""Any number of devices and processes takes the steps of one device."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import take_steps
import tiny
from jax.sharding import Mesh

from segblocks_jax import nn
from segblocks_jax.training.sharding import AXIS

FOLDER = pathlib.Path(__file__).parent


def mesh(devices):
    return Mesh(np.array(jax.devices()[:devices]), (AXIS,))


@pytest.fixture(scope="module")
def one():
    return take_steps.take(mesh(1))[0]


@pytest.fixture(scope="module")
def four():
    return take_steps.take(mesh(4))


def program(devices, *arguments):
    flags = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count="
    return subprocess.Popen(
        [sys.executable, FOLDER / "take_steps.py", *map(str, arguments)],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{flags}{devices}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*programs):
    for running in programs:
        said, _ = running.communicate(timeout=400)
        assert running.returncode == 0, said


def free_port():
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        return taken.getsockname()[1]


def check_same(got, expected):
    assert got.keys() == expected.keys()
    for name in ("loss", "loss_task", "high_fraction", "probability_mean"):
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-5, err_msg=name)
    # Before the first ReLU that a rounding turns, gradients agree as losses do.
    np.testing.assert_allclose(got["gradient_norm"][:3], expected["gradient_norm"][:3], rtol=1e-5)
    for part in ("params", "stats"):
        names = [name for name in got if name.startswith(part)]
        a, b = (np.concatenate([run[name].ravel() for name in names]) for run in (got, expected))
        assert np.linalg.norm(a - b) < 1e-4 * np.linalg.norm(b)
        for name in names:
            if got[name].ndim > 1:  # Biases begin at 0 and have no size yet.
                difference = np.linalg.norm(got[name] - expected[name])
                assert difference < 1e-4 * np.linalg.norm(expected[name]), name


def test_four_devices_take_the_steps_of_one(one, four):
    check_same(four[0], one)


@pytest.mark.slow
def test_eight_devices_take_the_steps_of_one(one, tmp_path):
    finish(program(8, tmp_path / "eight.npz"))
    check_same(dict(np.load(tmp_path / "eight.npz")), one)


@pytest.mark.slow
def test_two_processes_of_two_devices_take_the_steps_of_one_process_of_four(one, four, tmp_path):
    address = f"localhost:{free_port()}"
    finish(*(program(2, tmp_path / "both.npz", address, 2, process) for process in (0, 1)))
    both = dict(np.load(tmp_path / "both.npz"))
    check_same(both, four[0])
    check_same(both, one)


def test_no_activation_is_moved_between_devices(four):
    (num_high,) = four[1].compiled
    text = four[1].programs.get(num_high, "", ()).as_text()
    assert "all-reduce" in text
    for collective in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert collective not in text


def test_what_is_sampled_does_not_depend_on_the_devices():
    actions = []
    for devices in (1, 4):
        step, state = take_steps.trainer(
            tiny.config(semantics={"filling": "random"}), mesh(devices)
        )
        decision, _ = step.decide(state, tiny.batch())
        actions.append(np.asarray(decision.action))
    assert 0 < actions[0].mean() < 1
    assert (actions[0][0] != actions[0][1:]).any()
    np.testing.assert_array_equal(*actions)


def test_a_key_an_image_drops_the_same_channels_in_any_batch():
    image, layer = jax.numpy.ones((4, 2, 2, 32)), nn.Dropout(0.5)
    keys = nn.image_keys(jax.random.key(3), jax.numpy.arange(4))
    with nn.dropout_key(keys):
        whole = layer(image), layer(image)
    with nn.dropout_key(keys[2:]):
        half = layer(image[2:]), layer(image[2:])
    for a, b in zip(whole, half, strict=True):
        np.testing.assert_array_equal(a[2:], b)
    assert (whole[0] != whole[1]).any()
    assert (whole[0][0] != whole[0][1]).any()


def doubled(seed=0):
    """Two images twice, next to each other, the second time with other pixels to ignore."""
    batch = {name: part.repeat(2, 0) for name, part in tiny.batch(2, seed).items()}
    batch["label"][1::2, :, 64:] = 255
    return batch


def moves(settings, batch, devices=1):
    step, state = take_steps.trainer(settings, mesh(devices))
    before = jax.device_get(state.params)
    state, metrics = step(state, batch)
    after = jax.device_get(state.params)
    return jax.tree.map(np.subtract, after, before), jax.device_get(state.stats), metrics


def test_accumulated_parts_give_the_gradient_of_the_whole_batch():
    # Both parts hold the same images, so batch norm sees no difference; their valid pixels differ.
    results = []
    for accumulate in (1, 2):
        optim = {"accumulate": accumulate, "learning_rate": 1e-3, "weight_decay": 0.0}
        results.append(moves(tiny.config("middle", optim=optim), doubled()))
    (whole, _, expected), (parts, _, got) = results
    for name in ("loss", "gradient_norm"):
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-5, err_msg=name)
    a, b = (np.concatenate([x.ravel() for x in jax.tree.leaves(t)]) for t in (parts, whole))
    assert np.linalg.norm(a - b) < 1e-2 * np.linalg.norm(b)


def test_a_batch_that_does_not_divide_into_parts_and_devices_is_refused():
    with pytest.raises(ValueError, match=r"optim.accumulate is 3; expected a divisor of .* 4"):
        tiny.config(optim={"accumulate": 3})
    with pytest.raises(ValueError, match=r"multiple of the 4 devices times optim.accumulate, 2"):
        take_steps.trainer(tiny.config(optim={"accumulate": 2}), mesh(4))


@pytest.mark.slow
def test_batch_norms_of_each_device_keep_mean_statistics():
    # Both devices see the same images: their own statistics are the joint ones, but for n - 1.
    twice = {name: np.concatenate([part] * 2) for name, part in tiny.batch(2).items()}
    optim = {"sync_batch_norm": False}
    _, alone, _ = moves(tiny.config("static", optim=optim), tiny.batch(4), devices=2)
    _, joint, _ = moves(tiny.config("static"), tiny.batch(4), devices=2)
    _, same, _ = moves(tiny.config("static", optim=optim), twice, devices=2)
    _, single, _ = moves(tiny.config("static", optim={"batch_size": 2}), tiny.batch(2))
    first, second = (
        [s["net"]["units"][i]["norm"] for s in (alone, joint, same, single)] for i in (0, 1)
    )
    mean, var = [norm["mean"][...] for norm in first], [norm["var"][...] for norm in second]
    np.testing.assert_allclose(mean[0], mean[1], rtol=1e-4)  # The mean of means is the mean.
    np.testing.assert_allclose(mean[2], mean[3], rtol=1e-4)
    assert np.abs(var[0] / var[1] - 1).max() > 1e-4
