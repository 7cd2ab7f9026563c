"""Weights from PyTorch: the names and shapes of the authors' checkpoints, and errors in one piece."""

import pathlib
import zlib

import golden
import jax
import numpy as np
import pytest
from flax import nnx

import segblocks_jax as sb
from segblocks_jax.interop import load_torch_state_dict
from segblocks_jax.models import PolicyNet

BUILDS = {
    "rn18": lambda: sb.create_model("swiftnet_rn18", rngs=nnx.Rngs(0)),
    "policy": lambda: PolicyNet(128, rngs=nnx.Rngs(0)),
}


def small_net() -> nnx.Module:
    return golden.network(lambda: PolicyNet(128, features=2, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("name", ["rn18", "policy"])
def test_names_shapes_and_weights_of_checkpoints(shared: pathlib.Path, name: str) -> None:
    entries = golden.state_dict_entries(shared, name)
    weights = golden.state_dict(entries)
    for key, entry in entries.items():
        assert zlib.crc32(np.ascontiguousarray(weights[key]).tobytes()) == entry["crc32"], key
    model = golden.network(BUILDS[name])
    expected = {
        key: tuple(entry["shape"])
        for key, entry in entries.items()
        if not key.endswith("num_batches_tracked")
    }
    assert {key: value.shape for key, value in golden.variables(model).items()} == expected
    load_torch_state_dict(model, {key: 2 * value for key, value in weights.items()})
    for key, value in golden.variables(model).items():
        np.testing.assert_array_equal(value, 2 * weights[key], err_msg=key)


@pytest.mark.parametrize(("name", "count"), [("rn18", 11_797_071), ("policy", 216_193)])
def test_parameter_counts(name: str, count: int) -> None:
    assert (
        sum(x.size for x in jax.tree.leaves(nnx.state(nnx.eval_shape(BUILDS[name]), nnx.Param)))
        == count
    )


def test_one_error_lists_every_problem_and_changes_nothing() -> None:
    model = small_net()
    before = golden.variables(model)
    state = {name: value + 1 for name, value in before.items()}
    del state["layers.1.running_mean"], state["layers.9.bias"]
    state["layers.3.weight"] = np.zeros((2, 2, 3, 3), np.float32)
    state["layers.0.bias"] = np.zeros(2, np.float32)
    with pytest.raises(ValueError, match="load_torch_state_dict: PolicyNet doesn't fit") as error:
        load_torch_state_dict(model, state)
    lines = str(error.value).splitlines()[1:]
    assert lines == [
        "missing: layers.1.running_mean, layers.9.bias",
        "left over: layers.0.bias",
        "misshapen: layers.3.weight: got (3, 3, 2, 2), expected (5, 5, 2, 2) (HWIO)",
    ]
    for name, value in golden.variables(model).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_without_strict_the_common_names_are_loaded() -> None:
    model = small_net()
    before = golden.variables(model)
    state = {"layers.9.bias": np.array([7.0]), "unknown": np.zeros(3)}
    load_torch_state_dict(model, state, strict=False)
    for name, value in golden.variables(model).items():
        expected = [7.0] if name == "layers.9.bias" else before[name]
        np.testing.assert_array_equal(value, expected, err_msg=name)
        assert value.dtype == np.float32
    with pytest.raises(ValueError, match=r"misshapen: layers\.9\.bias: got \(2,\)") as error:
        load_torch_state_dict(model, {"layers.9.bias": np.zeros(2)}, strict=False)
    assert "missing" not in str(error.value)


def test_counters_are_passed_over() -> None:
    model = small_net()
    state = golden.variables(model) | {"layers.1.num_batches_tracked": np.array(3)}
    load_torch_state_dict(model, state)
