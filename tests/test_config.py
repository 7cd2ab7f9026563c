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
from segblocks_jax.experiments import camvid, cityscapes, mapillary
from segblocks_jax.experiments.run import read_system
from segblocks_jax.structured_config import ConfigError
from segblocks_jax.systems.lrnnet.network import DILATIONS
from segblocks_jax.systems.segblocks.build import create_system
from segblocks_jax.systems.segblocks.config import ExperimentConfig

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "experiments" / "configs").glob("*/*.py"))
ENTRY_POINTS = {"cityscapes": cityscapes, "camvid": camvid, "mapillary": mapillary}


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


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_every_field_can_be_overridden_from_the_command_line(file):
    fields = load(file).get_config()
    expected = ExperimentConfig().to_dict()
    assert set(fields.to_dict()) == set(expected)
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
        ("swiftnet_efflite0", 64, 2, 128),
        ("swiftnet_efflite0", 192, 2, 128),
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
