"""Exponential moving averages of weights and statistics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import take_steps
import tiny
from test_step import mesh

from segblocks_jax.structured_config import ConfigError
from segblocks_jax.training.checkpoints import Checkpoints
from segblocks_jax.training.state import create_state
from segblocks_jax.training.workdir import restore_modules

DECAY = 0.3


def trainer():
    """Of a dense network, with averages."""
    settings = tiny.config("static", optim={"ema": DECAY})
    step, state = take_steps.trainer(settings, mesh(1))
    both = jax.tree.map(jnp.copy, (state.params, state.stats))
    return step, step.place(dataclasses.replace(state, average=both))


def arrays(tree):
    return [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)]


def test_averages_follow_the_recursion_and_a_resumed_run(tmp_path):
    step, state = trainer()
    expected = arrays((state.params, state.stats))
    with Checkpoints(tmp_path, model="small") as checkpoints:
        for number in range(1, 5):
            state, _ = step(state, tiny.batch(seed=number))
            decay = min(DECAY, (1 + number) / (10 + number))
            now = arrays((state.params, state.stats))
            expected = [decay * a + (1 - decay) * x for a, x in zip(expected, now, strict=True)]
            for got, wanted in zip(arrays(state.average), expected, strict=True):
                np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-7)
            if number == 2:
                checkpoints.save(2, state)
        moved = [np.abs(a - b).max() for a, b in zip(arrays(state.served), now, strict=True)]
        assert max(moved) > 1e-3
        template = trainer()[1]
        again, _, _ = checkpoints.restore(template)
    for number in (3, 4):
        again, _ = step(again, tiny.batch(seed=number))
    for a, b in zip(jax.tree.leaves(again.average), jax.tree.leaves(state.average), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_restored_for_evaluation_is_the_average(tmp_path):
    settings = tiny.config("static", optim={"ema": DECAY})
    system = tiny.system(settings)
    optimizer = take_steps.create_optimizer(settings.optim, system.multipliers())
    _, state = create_state(system.build(), optimizer, 0, average=True)
    both = jax.tree.map(lambda x: x + 1, (state.params, state.stats))
    with Checkpoints(tmp_path / "checkpoints", model="any") as checkpoints:
        checkpoints.save(7, dataclasses.replace(state, average=both))
    modules, step, _ = restore_modules(system, tmp_path)
    assert step == 7
    own = jax.tree.leaves(state.params)[0]
    found = jax.tree.leaves(create_state(modules, optimizer, 0)[1].params)[0]
    np.testing.assert_array_equal(found, own + 1)


def test_without_a_decay_there_is_no_average():
    assert take_steps.trainer(tiny.config("static"), mesh(1))[1].average is None
    for decay in (1.0, -0.1):
        with pytest.raises(ConfigError, match=r"optim\.ema"):
            tiny.config(optim={"ema": decay})
