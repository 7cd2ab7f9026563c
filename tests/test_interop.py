"""Weights from PyTorch: names and shapes of checkpoints and backbones, parts of them, errors in one piece."""

import pathlib
import zlib
from collections.abc import Callable, Iterator

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import segblocks_jax as sb
from segblocks_jax.interop import load_torch_state_dict
from segblocks_jax.systems.segblocks.policies.reinforce import PolicyNet

MODELS = {"rn18": "swiftnet_rn18", "rn50": "swiftnet_rn50", "effl1": "swiftnet_efflite1"}


def build(name: str) -> nnx.Module:
    """A network of full size."""
    rngs = nnx.Rngs(0)
    return (
        PolicyNet(128, rngs=rngs) if name == "policy" else sb.create_model(MODELS[name], rngs=rngs)
    )


def small_net() -> nnx.Module:
    return golden.network(lambda: PolicyNet(128, features=2, rngs=nnx.Rngs(0)))


def small_swiftnet(name: str = "swiftnet_rn18") -> nnx.Module:
    sizes = {"num_classes": 3, "width": 4, "features": 6}
    return golden.network(lambda: sb.create_model(name, **sizes, rngs=nnx.Rngs(0)))


def small_system() -> nnx.Dict:
    policy = golden.network(lambda: sb.policies.create("reinforce", rngs=nnx.Rngs(0)))
    return nnx.Dict(net=small_swiftnet(), policy=policy)


def changed(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Other weights under the same names."""
    return {name: value + 1 for name, value in state.items()}


def assert_holds(model: nnx.Module, expected: dict[str, np.ndarray]) -> None:
    got = golden.variables(model)
    assert got.keys() == expected.keys()
    for name, value in got.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def as_checkpoint(system: nnx.Dict) -> dict[str, np.ndarray]:
    """A system's weights, changed, as the authors' checkpoints have them, with what they have besides."""
    state = changed(golden.variables(system))
    counters = [name for name in state if name.endswith("running_mean")]
    state |= {name.replace("running_mean", "num_batches_tracked"): np.array(7) for name in counters}
    return state | {
        "net.backbone.fc.weight": np.zeros((10, 5)),
        "net.backbone.fc.bias": np.zeros(10),
    }


# Names, shapes, counts


@pytest.mark.parametrize("name", ["rn18", "policy"])
def test_names_shapes_and_weights_of_checkpoints(shared: pathlib.Path, name: str) -> None:
    entries = golden.state_dict_entries(shared, name)
    weights = golden.state_dict(entries)
    for key, entry in entries.items():
        assert zlib.crc32(np.ascontiguousarray(weights[key]).tobytes()) == entry["crc32"], key
    model = golden.network(lambda: build(name))
    load_torch_state_dict(model, {key: 2 * value for key, value in weights.items()})
    kept = {key: 2 * v for key, v in weights.items() if not key.endswith("num_batches_tracked")}
    assert_holds(model, kept)


@pytest.mark.parametrize("name", ["rn18", "rn50", "effl1", "policy"])
def test_names_and_shapes_of_full_networks(shared: pathlib.Path, name: str) -> None:
    model = nnx.eval_shape(lambda: build(name))
    names = golden.relative_names(model)
    state = nnx.to_flat_state(nnx.state(model))
    got = {names[path]: tuple(variable.shape) for path, variable in state}
    unused = ("backbone.head.", "backbone.fc.")
    expected = {
        key: tuple(entry["shape"])
        for key, entry in golden.state_dict_entries(shared, name).items()
        if not key.endswith("num_batches_tracked") and not key.startswith(unused)
    }
    oihw = {k: (s[3], s[2], s[0], s[1]) if len(s) == 4 else s for k, s in got.items()}
    assert oihw == expected


@pytest.mark.parametrize(
    ("name", "count"),
    [("rn18", 11_797_071), ("rn50", 24_502_991), ("effl1", 3_819_235), ("policy", 216_193)],
)
def test_parameter_counts(name: str, count: int) -> None:
    parameters = nnx.state(nnx.eval_shape(lambda: build(name)), nnx.Param)
    assert sum(x.size for x in jax.tree.leaves(parameters)) == count


# Backbones


def torchvision_resnet(depth: int, width: int = 64) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes as torchvision publishes them, by its rules."""
    blocks = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth]
    deep = depth >= 50

    def norm(name: str, features: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        for kind in ("weight", "bias", "running_mean", "running_var"):
            yield f"{name}.{kind}", (features,)
        yield f"{name}.num_batches_tracked", ()

    yield "conv1.weight", (width, 3, 7, 7)
    yield from norm("bn1", width)
    before = width
    for i, repeat in enumerate(blocks):
        inner = width * 2**i
        out = 4 * inner if deep else inner
        for j in range(repeat):
            block = f"layer{i + 1}.{j}"
            kernels = [(before, inner, 1), (inner, inner, 3), (inner, out, 1)]
            if not deep:
                kernels = [(before, inner, 3), (inner, inner, 3)]
            for k, (cin, cout, side) in enumerate(kernels, 1):
                yield f"{block}.conv{k}.weight", (cout, cin, side, side)
                yield from norm(f"{block}.bn{k}", cout)
            if before != out:
                yield f"{block}.downsample.0.weight", (out, before, 1, 1)
                yield from norm(f"{block}.downsample.1", out)
            before = out
    yield "fc.weight", (1000, before)
    yield "fc.bias", (1000,)


@pytest.mark.parametrize("depth", [18, 50])
def test_torchvision_names_are_those_of_the_reference(shared: pathlib.Path, depth: int) -> None:
    entries = golden.state_dict_entries(shared, f"rn{depth}")
    backbone = {k.removeprefix("backbone."): v for k, v in entries.items() if "backbone" in k}
    names = {k: s for k, s in torchvision_resnet(depth) if not k.startswith("fc.")}
    assert names == {key: tuple(entry["shape"]) for key, entry in backbone.items()}


@pytest.mark.parametrize("depth", [18, 50])
def test_torchvision_resnets(depth: int, rng: np.random.Generator) -> None:
    net = small_swiftnet(f"swiftnet_rn{depth}")
    decoder = golden.variables(net.spp)
    weights = {k: rng.standard_normal(s) for k, s in torchvision_resnet(depth, width=4)}
    load_torch_state_dict(net.backbone, weights)
    unused = ("num_batches_tracked", "fc.weight", "fc.bias")
    assert_holds(
        net.backbone,
        {k: v.astype(np.float32) for k, v in weights.items() if not k.endswith(unused)},
    )
    assert_holds(net.spp, decoder)


def test_efficientnet_lite_backbones(shared: pathlib.Path) -> None:
    net = nnx.eval_shape(lambda: build("effl1"))
    weights = {
        name.removeprefix("backbone."): np.broadcast_to(np.float32(i), tuple(entry["shape"]))
        for i, (name, entry) in enumerate(golden.state_dict_entries(shared, "effl1").items())
        if name.startswith("backbone.")
    }
    assert {"head.0.weight", "fc.bias", "blocks.0.0._bn1.num_batches_tracked"} < weights.keys()
    load_torch_state_dict(net.backbone, weights)
    unused = ("head.", "fc.")
    assert_holds(
        net.backbone,
        {
            k: v
            for k, v in weights.items()
            if not k.startswith(unused) and not k.endswith("num_batches_tracked")
        },
    )


# Parts of checkpoints

PARTS: dict[str, tuple[Callable, str]] = {
    "system": (lambda system: system, ""),
    "net": (lambda system: system.net, "net."),
    "static system": (lambda system: nnx.Dict(net=system.net), ""),
    "backbone": (lambda system: system.net.backbone, "net.backbone."),
    "policy": (lambda system: system.policy, "policy."),
    "policy network": (lambda system: system.policy.net, "policy.policy_net."),
}


@pytest.mark.family
@pytest.mark.parametrize("wrap", ["plain", "module", "wrapped"])
@pytest.mark.parametrize("name", PARTS)
def test_a_network_takes_its_part_of_a_checkpoint(name: str, wrap: str) -> None:
    system = small_system()
    state = as_checkpoint(system)
    untouched = golden.variables(system)
    part, prefix = PARTS[name]
    model = part(system)
    given = state
    if wrap == "module":
        given = {f"module.{key}": value for key, value in state.items()}
    elif wrap == "wrapped":
        given = {"epoch": 3, "optimizer": {}, "state_dict": {"model": state}}
    load_torch_state_dict(model, given)
    own = golden.variables(model)
    assert_holds(model, {key: state[prefix + key] for key in own})
    after = golden.variables(system)
    for key in untouched.keys() - {prefix + key for key in own}:
        np.testing.assert_array_equal(after[key], untouched[key], err_msg=key)


def test_a_backbone_takes_its_part_of_a_network() -> None:
    system = small_system()
    expected = changed(golden.variables(system.net.backbone))
    load_torch_state_dict(system.net.backbone, changed(golden.variables(system.net)))
    assert_holds(system.net.backbone, expected)


def test_a_rule_has_no_weights_to_miss() -> None:
    system = small_system()
    state = as_checkpoint(system)
    system.policy = sb.policies.create("heuristic")
    load_torch_state_dict(system, state)
    assert_holds(system, {key: state[key] for key in golden.variables(system)})


def test_unknown_names_beside_the_own_part_are_left_over() -> None:
    system = small_system()
    state = as_checkpoint(system) | {"net.extra": np.zeros(1), "ema.decay": np.zeros(1)}
    del state["net.logits.conv.bias"], state["policy.policy_net.layers.9.bias"]
    with pytest.raises(ValueError, match="SwiftNet doesn't fit") as error:
        load_torch_state_dict(system.net, state)
    lines = str(error.value).splitlines()[1:]
    assert lines == ["missing: net.logits.conv.bias", "left over: ema.decay, net.extra"]
    with pytest.raises(
        ValueError, match=r"missing: net.logits.conv.bias, policy.policy_net.layers.9"
    ):
        load_torch_state_dict(system, state)


# What doesn't fit


def test_one_error_lists_every_problem_and_changes_nothing() -> None:
    model = small_net()
    before = golden.variables(model)
    state: dict = changed(before)
    del state["layers.1.running_mean"], state["layers.9.bias"]
    state["layers.3.weight"] = np.zeros((2, 2, 3, 3), np.float32)
    state["layers.0.bias"] = np.zeros(2, np.float32)
    state["layers.4.bias"] = [0.0, 0.0]
    state["layers.4.weight"] = np.array(["a", None], object)
    with pytest.raises(ValueError, match="load_torch_state_dict: PolicyNet doesn't fit") as error:
        load_torch_state_dict(model, state)
    assert str(error.value).splitlines()[1:] == [
        "missing: layers.1.running_mean, layers.9.bias",
        "left over: layers.0.bias",
        "no arrays of numbers: layers.4.bias, layers.4.weight",
        "misshapen: layers.3.weight: got (2, 2, 3, 3), expected (2, 2, 5, 5)",
    ]
    assert_holds(model, before)


def test_without_strict_the_common_names_are_loaded() -> None:
    model = small_net()
    before = golden.variables(model)
    state = {"layers.9.bias": np.array([7.0]), "unknown": np.zeros(3), "epoch": 3}
    load_torch_state_dict(model, state, strict=False)
    assert_holds(model, before | {"layers.9.bias": np.array([7.0])})
    with pytest.raises(ValueError, match=r"misshapen: layers\.9\.bias: got \(2,\)") as error:
        load_torch_state_dict(model, {"layers.9.bias": np.zeros(2)}, strict=False)
    assert "missing" not in str(error.value)
    with pytest.raises(ValueError, match=r"missing: layers\.0\.weight"):
        load_torch_state_dict(model, {"unknown": np.zeros(3)}, strict=False)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, jnp.bfloat16, np.int32])
def test_every_kind_of_number_becomes_float32(dtype: type) -> None:
    model = small_net()
    state = {k: (8 * v).astype(dtype) for k, v in golden.variables(model).items()}
    load_torch_state_dict(model, state)
    assert_holds(model, {k: v.astype(np.float32) for k, v in state.items()})
