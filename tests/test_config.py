"""Configurations: every file builds, and what can't run is refused with the field's name."""

import dataclasses
import importlib.util
import pathlib
import re

import jax
import numpy as np
import pytest
from flax import nnx

from segblocks_jax import BlockOptions, create_model, split
from segblocks_jax.data.config import DataConfig
from segblocks_jax.errors import UserError
from segblocks_jax.experiments import camvid, cifar, cityscapes, custom, imagenet, mapillary, mpii
from segblocks_jax.experiments.run import read_system
from segblocks_jax.structured_config import ConfigError, leaves, nested
from segblocks_jax.systems.lrnnet.network import DILATIONS
from segblocks_jax.systems.registry import system_type
from segblocks_jax.systems.segblocks.build import create_system
from segblocks_jax.systems.segblocks.config import ExperimentConfig, ModelConfig, PolicyConfig
from segblocks_jax.training.config import LoopConfig, OptimConfig

NAN, INF = float("nan"), float("inf")
ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "experiments" / "configs").glob("*/*.py"))
ENTRY_POINTS = {
    "cifar": cifar,
    "cityscapes": cityscapes,
    "camvid": camvid,
    "custom": custom,
    "imagenet": imagenet,
    "mapillary": mapillary,
    "mpii": mpii,
}


def load(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_config_files():
    assert len(FILES) >= 8


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_every_config_file_builds_and_tells_how_it_is_run(file):
    module = load(file)
    config = read_system(module.get_config(), ENTRY_POINTS[file.parent.name].DATASETS).config
    assert config.name
    command = (
        f"python -m segblocks_jax.experiments.{file.parent.name} --config={file.relative_to(ROOT)}"
    )
    assert command in module.__doc__
    assert "Hardware:" in module.__doc__


@pytest.mark.parametrize(
    "file", [f for f in FILES if "lrnnet" in f.stem], ids=lambda f: f"{f.parent.name}/{f.stem}"
)
def test_the_blocks_of_lrnnet_are_as_wide_as_its_dilations(file):
    config = ExperimentConfig.from_mapping(load(file).get_config().to_dict())
    system = nnx.eval_shape(lambda: create_system(config, 11))
    assert ("policy" in system) == (config.policy.name == "reinforce")
    assert system.net.backbone.dilations == (config.model.dilations or DILATIONS)


def test_the_gain_is_the_reward_and_published_recipes_have_the_authors():
    assert PolicyConfig().reward == "gain"
    published = [
        f for f in FILES if f.stem.startswith(("rn18_reinforce", "rn50", "lrnnet_reinforce"))
    ]
    assert len(published) >= 10
    assert {load(file).get_config().policy.reward for file in published} == {"loss"}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_every_field_can_be_overridden_from_the_command_line(file):
    fields = load(file).get_config()
    expected = system_type(fields.get("system", "segblocks")).config_type().to_dict()
    assert set(fields.to_dict()) - {"phases", "system"} == set(expected)
    for group, values in expected.items():
        if isinstance(values, dict):
            assert set(fields[group].to_dict()) == set(values)


def test_round_trip_through_plain_dictionaries():
    config = load(ROOT / "experiments/configs/cityscapes/quickstart.py").get_config()
    config = ExperimentConfig.from_mapping(config.to_dict())
    assert ExperimentConfig.from_mapping(config.to_dict()) == config


@pytest.mark.parametrize(
    ("mapping", "text"),
    [
        ({"zzz": 1}, "unknown field zzz. Known: name, seed, "),
        ({"seed": -1}, "seed is -1; expected a whole number from 0 to 2**32 - 1"),
        ({"seed": 2**32}, "seed is 4294967296; expected a whole number from 0 to 2**32 - 1"),
        ({"seed": 1.0}, "seed is 1.0, a float; expected int"),
        ({"optim": {"learning_rate": -1e-3}}, "optim.learning_rate is -0.001; expected a positive"),
        ({"optim": {"learning_rate": NAN}}, "optim.learning_rate is nan; expected a positive"),
        ({"optim": {"learning_rate": INF}}, "optim.learning_rate is inf; expected a finite number"),
        ({"optim": {"final_learning_rate": -1.0}}, "optim.final_learning_rate is -1.0; expected 0"),
        (
            {"optim": {"learning_rate": 1e-4, "final_learning_rate": 1e-3}},
            "optim.final_learning_rate is 0.001; expected at most optim.learning_rate, 0.0001",
        ),
        ({"optim": {"b1": 7.0}}, "optim.b1 is 7.0; expected a decay from 0 to below 1"),
        ({"optim": {"b1": 1.0}}, "optim.b1 is 1.0; expected a decay from 0 to below 1"),
        ({"optim": {"b2": -0.1}}, "optim.b2 is -0.1; expected a decay from 0 to below 1"),
        ({"optim": {"b2": NAN}}, "optim.b2 is nan; expected a decay from 0 to below 1"),
        ({"optim": {"weight_decay": -1e-4}}, "optim.weight_decay is -0.0001; expected 0 or more"),
        ({"optim": {"backbone_multiplier": -1}}, "optim.backbone_multiplier is -1.0; expected 0"),
        (
            {"optim": {"policy_multiplier": INF}},
            "optim.policy_multiplier is inf; expected a finite",
        ),
        ({"optim": {"accumulate": 0}}, "optim.accumulate is 0; expected at least 1"),
        (
            {"optim": {"steps": 2**31}},
            "optim.steps is 2147483648; expected a positive number below",
        ),
        ({"policy": {"target": NAN}}, "policy.target is nan; expected a share from 0 to 1"),
        ({"policy": {"bucket_step": 0}}, "policy.bucket_step is 0.0; expected a share above 0"),
        ({"policy": {"sparsity_weight": -1}}, "policy.sparsity_weight is -1.0; expected a weight"),
        ({"policy": {"entropy": NAN}}, "policy.entropy is nan; expected a weight of 0 or more"),
        ({"policy": {"low_factor": 0}}, "policy.low_factor is 0; expected at least 1"),
        ({"model": {"features": 0}}, "model.features is 0; expected a positive number of channels"),
        ({"model": {"dropout": NAN}}, "model.dropout is nan; expected a factor from 0 to 1"),
        ({"model": {"input_scale": NAN}}, "model.input_scale is nan; expected a finite number"),
        ({"data": {"scale": (0.5, INF)}}, "data.scale is (0.5, inf); expected a finite number"),
        ({"data": {"scale": (NAN, 1)}}, "data.scale is (nan, 1.0); expected a finite number"),
        ({"data": {"jitter": -0.1}}, "data: Augmentation: brightness must lie in 0..1"),
        ({"data": {"flip": NAN}}, "data.flip is nan; expected a finite number"),
        ({"data": {"scenes": (0, 1)}}, "data.scenes is (0, 1); expected at least 1"),
        ({"data": {"scene_size": (256, 0)}}, "data.scene_size is (256, 0); expected at least 1"),
        ({"loop": {"keep_checkpoints": 0}}, "loop.keep_checkpoints is 0; expected at least 1"),
        ({"loop": {"eval_pictures": -1}}, "loop.eval_pictures is -1; expected 0 or more"),
        ({"loop": {"eval_batch_size": 0}}, "loop.eval_batch_size is 0; expected at least 1"),
        ({"polcy": {}}, "unknown field polcy; did you mean policy?"),
        ({"policy": {"tagret": 0.2}}, "unknown field policy.tagret; did you mean policy.target?"),
        ({"policy": {"target": 1.5}}, "policy.target is 1.5; expected a share from 0 to 1"),
        ({"policy": {"target": "0.2"}}, "policy.target is '0.2', a str; expected float"),
        ({"policy": {"name": "lottery"}}, "policy.name is 'lottery'; expected one of"),
        ({"policy": {"reward": "profit"}}, "policy: Reward: kind is 'profit'; expected one of"),
        ({"policy": {"baseline": "row"}}, "policy: Reward: baseline is 'row'; expected one of"),
        ({"policy": {"gain_every": 0}}, "policy: Reward: gain_every is 0; expected 1 step or more"),
        ({"policy": {"entropy": -0.1}}, "policy.entropy is -0.1; expected a weight of 0 or more"),
        ({"policy": 3}, "policy is 3; expected a group of fields"),
        ({"optim": {"steps": True}}, "optim.steps is True, a bool; expected int"),
        ({"optim": {"batch_size": 0}}, "optim.batch_size is 0; expected a positive number"),
        ({"optim": {"loss": "l2"}}, "optim.loss is 'l2'"),
        ({"model": {"name": "unet"}}, "model.name is 'unet'; expected one of"),
        ({"model": {"width": 0}}, "model.width is 0"),
        ({"model": {"dilations": 3}}, "model.dilations is 3; expected a tuple"),
        ({"model": {"dilations": (1, 2.5)}}, "model.dilations is 2.5, a float; expected int"),
        ({"model": {"dilations": (1, 2)}}, "model.dilations is (1, 2) for swiftnet_rn18"),
        ({"policy": {"block_size": 0}}, "policy.block_size is 0; expected a positive multiple of"),
        ({"model": {"dropout": 1.5}}, "model.dropout is 1.5; expected a factor from 0 to 1"),
        ({"model": {"pretrained": "a.onnx"}}, "model.pretrained is 'a.onnx'; expected a file that"),
        ({"model": {"pretrained": 18}}, "model.pretrained is 18, a int; expected str"),
        ({"loop": {"log_every": 0}}, "loop.log_every is 0; expected at least 1"),
        ({"precision": "float8"}, "precision is 'float8'"),
        ({"data": {"crop": (100, 128)}}, "data.crop is (100, 128); expected multiples of 128"),
        ({"data": {"dataset": "kitti"}}, "data.dataset is 'kitti'; expected one of"),
        ({"data": {"on_error": "ignore"}}, "data.on_error is 'ignore'; expected one of"),
        (
            {"data": {"train_split": "train+train_extra"}},
            "data.train_split is 'train+train_extra'; expected some of ('train', 'val', 'test')",
        ),
        ({"data": {"workers": -1}}, "data.workers is -1; expected 0 or more"),
        ({"data": {"hue": 0.7}}, "data: Augmentation: hue must lie in 0..0.5"),
        ({"loop": {"eval_sizes": 0}}, "loop.eval_sizes is 0; expected at least 1"),
        ({"data": {"crop": 128}}, "data.crop is 128; expected 2 values"),
        (
            {"semantics": {"batch_norm": "none"}},
            "BlockOptions: batch_norm is 'none'; expected one of",
        ),
    ],
)
def test_what_cannot_run_is_refused(mapping, text):
    with pytest.raises(ConfigError, match=re.escape(text)):
        ExperimentConfig.from_mapping(mapping)


@pytest.mark.parametrize(
    ("group", "values"),
    [
        (OptimConfig, {"b1": 7.0}),
        (OptimConfig, {"steps": True}),
        (LoopConfig, {"eval_sizes": 0}),
        (ModelConfig, {"width": -8}),
        (PolicyConfig, {"target": 1.5}),
        (DataConfig, {"workers": -1}),
        (ExperimentConfig, {"seed": -1}),
    ],
)
def test_a_group_made_in_python_is_checked_as_one_from_a_file(group, values):
    with pytest.raises(
        ConfigError, match=f"{next(iter(values))} is {next(iter(values.values()))!r}"
    ):
        group(**values)


def test_every_number_is_finite():
    numbers = [(name, kind) for name, kind, _ in leaves(ExperimentConfig) if "float" in str(kind)]
    assert len(numbers) >= 16
    for name, kind in numbers:
        for value in (NAN, INF):
            given = value if kind is float else (value, value)
            with pytest.raises(ConfigError, match=re.escape(name)):
                ExperimentConfig.from_mapping(nested({name: given}))


def test_a_bug_in_a_group_of_fields_is_no_users_error(monkeypatch):
    def bug(self):
        raise ValueError("a bug")

    monkeypatch.setattr(DataConfig, "__post_init__", bug)
    with pytest.raises(ValueError, match="a bug") as caught:
        ExperimentConfig.from_mapping({"data": {"dataset": "camvid"}})
    assert not isinstance(caught.value, UserError)


def test_another_entry_points_data_set_is_refused():
    mapping = load(ROOT / "experiments/configs/camvid/rn18_static.py").get_config()
    with pytest.raises(
        ConfigError, match=r"data.dataset is 'camvid'; this entry point serves cityscapes"
    ):
        read_system(mapping, cityscapes.DATASETS)


def test_blocks_too_small_for_the_network_are_refused():
    mapping = {
        "policy": {"block_size": 96},
        "data": {"crop": (192, 192)},
        "model": {"width": 8, "features": 12},
    }
    config = ExperimentConfig.from_mapping(mapping)
    with pytest.raises(
        ValueError, match=r"policy\.block_size is 96, but swiftnet_rn18 needs a multiple of 64"
    ):
        create_system(config, 19)


@pytest.mark.parametrize(
    ("name", "side", "factor", "multiple"),
    [
        ("swiftnet_rn18", 32, 2, 64),
        ("swiftnet_rn18", 96, 2, 64),
        ("swiftnet_rn50", 64, 4, 128),
        ("swiftnet_efflite0", 96, 2, 64),
    ],
)
def test_a_network_refuses_blocks_too_small_for_it(name, side, factor, multiple):
    net = nnx.eval_shape(lambda: create_model(name, 3, features=6, rngs=nnx.Rngs(0)))

    def run(side, high):
        blocks = split(np.zeros((1, side, 2 * side, 3), np.float32), high, low_factor=factor)
        return jax.eval_shape(
            lambda pixels: net(dataclasses.replace(blocks, pixels=pixels)), blocks.pixels
        )

    for high in ([[[True, False]]], [[[True, True]]]):
        text = f"SwiftNet: blocks of {side} x {side} pixels; .* needs a multiple of {multiple}, so that"
        with pytest.raises(ValueError, match=text):
            run(side, np.array(high))


def test_the_smallest_blocks_run():
    net = nnx.eval_shape(
        lambda: create_model("swiftnet_rn18", 3, width=4, features=6, rngs=nnx.Rngs(0))
    )
    graphdef, state = nnx.split(net)
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state)
    blocks = split(np.zeros((1, 64, 128, 3), np.float32), np.array([[[True, False]]]))
    logits = jax.eval_shape(lambda s, x: nnx.merge(graphdef, s)(x), state, blocks)
    assert logits.block_size == 16


def test_the_authors_semantics_can_be_set_by_flags():
    fields = {
        "interpolation": "block",
        "batch_norm": "per_resolution",
        "filling": "random",
        "ignored": "counted",
    }
    assert ExperimentConfig.from_mapping({"semantics": fields}).semantics == BlockOptions.authors()


def test_a_flag_can_take_back_an_optional_field():
    """As `--config.model.pretrained=None` does, where the configuration file names weights."""
    mapping = {"model": {"name": "swiftnet_rn18", "pretrained": "None"}}
    assert ExperimentConfig.from_mapping(mapping).model.pretrained is None
