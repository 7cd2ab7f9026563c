"""Trainings of the policy alone."""

import jax
import numpy as np
import pytest
import tiny
from jax.sharding import Mesh

from segblocks_jax.structured_config import ConfigError
from segblocks_jax.training.flat_state import flatten
from segblocks_jax.training.sharding import AXIS


def host(state):
    """The arrays of parameters and statistics by name."""
    parts = {**flatten(state.params), **flatten(state.stats)}
    return {name: np.asarray(array) for name, array in parts.items()}


@pytest.mark.slow
@pytest.mark.parametrize("policy", [{}, {"reward": "gain"}, {"learning": "supervised"}])
def test_a_frozen_network_stays_bit_for_bit_and_the_policy_learns(policy):
    settings = tiny.config(policy=policy, optim={"freeze_network": True, "weight_decay": 0.1})
    step, state = tiny.trainer(settings, Mesh(np.array(jax.devices()[:1]), (AXIS,)))
    before = host(state)
    for _ in range(2):
        state, metrics = step(state, tiny.batch())
    after = host(state)
    assert np.isfinite(metrics["loss_task"])
    assert metrics["gradient_norm"] > 0
    changed = {name for name, array in after.items() if not np.array_equal(array, before[name])}
    assert changed
    assert {name.split("/")[0].split(".")[0] for name in changed} == {"policy"}
    kernels = {name for name in before if "policy" in name and "kernel" in name}
    assert kernels
    assert kernels <= changed


@pytest.mark.parametrize("policy", ["static", "random", "heuristic"])
def test_without_a_learned_policy_there_is_nothing_to_train(policy):
    with pytest.raises(ConfigError, match=f"freeze_network is set with policy {policy}"):
        tiny.config(policy, optim={"freeze_network": True})
