"""Training from backbone weights, and the folder that a run leaves."""

import contextlib
import dataclasses
import hashlib
import io
import json
import subprocess
import sys

import golden
import numpy as np
import pytest
import tiny
from flax import nnx

import segblocks_jax as sb
from segblocks_jax.data import NORMALIZATION
from segblocks_jax.experiments import commands
from segblocks_jax.models import IMAGENET
from segblocks_jax.systems.segblocks.build import create_system, open_source
from segblocks_jax.systems.segblocks.step import TrainStep
from segblocks_jax.training import loop
from segblocks_jax.training.workdir import load_modules


def frozen(file):
    """Two dense steps whose backbone never learns, so that what it began with can be seen."""
    return tiny.config(
        "static",
        data={"scene_size": (64, 128), "crop": (64, 64)},
        model={"pretrained": str(file)},
        optim={"steps": 2, "backbone_multiplier": 0.0},
        loop={"checkpoint_every": 1, "eval_every": 2},
    )


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A file in torchvision's names, and the weights in it."""
    system = golden.network(lambda: create_system(tiny.config(), 19))
    weights = {k: v + 0.25 for k, v in golden.variables(system.net.backbone).items()}
    file = tmp_path_factory.mktemp("weights") / "resnet18.npz"
    np.savez(file, **weights, **{"fc.bias": np.zeros(3)})
    return file, weights


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    config, folder = frozen("any.npz"), str(tmp_path_factory.mktemp("scenes"))
    return [open_source(config, split, folder) for split in ("train", "val")]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, backbone, sources):
    """A run that was interrupted after its first step, what it said, and its file, gone since."""
    folder = tmp_path_factory.mktemp("stopped")
    file = folder / "moved.npz"
    file.write_bytes(backbone[0].read_bytes())
    take_step = TrainStep.__call__

    def interrupted(self, state, batch):
        if int(state.step) == 1:
            raise KeyboardInterrupt
        return take_step(self, state, batch)

    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        patch.setattr(TrainStep, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            loop.train(tiny.system(frozen(file), *sources), folder / "run")
    assert not (folder / "run" / "export").exists()
    file.unlink()
    return folder / "run", file, said.getvalue()


def pretrained_in(file):
    return json.loads(file.read_text())["pretrained"]


@pytest.mark.slow
def test_training_begins_with_the_backbones_weights(stopped, backbone):
    workdir, file, said = stopped
    system, step, _ = load_modules(tiny.system(frozen(file)), workdir)
    assert step == 1
    got = golden.variables(system.net.backbone, nnx.state(system.net.backbone, nnx.Param))
    assert len(got) == 60
    scale = np.divide(NORMALIZATION["street_scenes"].std, IMAGENET[1])[:, None, None]
    folded = {"conv1.weight": (backbone[1]["conv1.weight"] * scale).astype(np.float32)}
    for name, value in got.items():
        expected = folded.get(name, backbone[1][name])
        np.testing.assert_array_equal(value, expected, err_msg=name)
    digest = hashlib.sha256(backbone[0].read_bytes()).hexdigest()
    assert f"backbone weights from {file}, SHA-256 {digest}" in said


@pytest.mark.slow
def test_a_run_that_continues_reads_no_file_and_keeps_its_digest(
    stopped, backbone, sources, capsys
):
    workdir, file, _ = stopped
    config = frozen(file)
    digest = hashlib.sha256(backbone[0].read_bytes()).hexdigest()
    mean, std = map(list, IMAGENET)
    expected = {
        "file": str(file),
        "sha256": digest,
        "source": "torchvision and timm",
        "normalization": {"mean": mean, "std": std},
    }
    assert commands.train(tiny.system(config, *sources), workdir) == 0
    assert "backbone weights" not in capsys.readouterr().err
    assert pretrained_in(workdir / "eval_2.json") == expected
    assert pretrained_in(workdir / "eval.json") == expected
    (workdir / "eval.json").unlink()
    commands.evaluate(tiny.system(config, *sources), workdir, "latest")
    assert pretrained_in(workdir / "eval.json") == expected
    check_export(config, workdir, sources[1], capsys)


def check_export(config, workdir, source, capsys):
    """What training left is the last checkpoint; the mode writes any."""
    folder = workdir / "export"
    spec = sb.load_spec(folder)
    sizes = (spec.name, spec.num_classes, spec.width, spec.features, spec.dataset, spec.policy)
    assert sizes == ("swiftnet_rn18", 19, 8, 12, "street_scenes", None)
    assert (spec.mean, spec.std) == NORMALIZATION["street_scenes"]
    assert spec.class_names == source.table.classes
    for step in (2, 1):
        expected = golden.variables(load_modules(tiny.system(config), workdir, step)[0].net)
        for name, value in golden.variables(sb.load_model(folder)).items():
            np.testing.assert_array_equal(value, expected[name], err_msg=name)
        assert commands.export(tiny.system(config), workdir, 1) == 0
        assert "step 1 is in" in capsys.readouterr().out


def test_policies_are_exported(tmp_path):
    config = tiny.config()
    system = golden.network(lambda: create_system(config, 19))
    tiny.system(config).export(system, tmp_path / "export")
    assert sb.load_spec(tmp_path / "export").policy == sb.PolicySpec(
        "reinforce", block_size=64, target=0.5, bucket_step=0.25, low_factor=2
    )
    expected = golden.variables(system)
    loaded = golden.variables(sb.load_model(tmp_path / "export"))
    assert loaded.keys() == expected.keys()
    for name, value in loaded.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_what_cannot_start_leaves_nothing(tmp_path, backbone, sources):
    file, _ = backbone
    config, workdir = frozen(tmp_path / "none.npz"), tmp_path / "run"
    with pytest.raises(FileNotFoundError, match=r"none\.npz: no such file of weights"):
        loop.train(tiny.system(config, *sources), workdir)
    other = dataclasses.replace(frozen(file), model=dataclasses.replace(config.model, width=16))
    other = dataclasses.replace(other, model=dataclasses.replace(other.model, pretrained=str(file)))
    with pytest.raises(ValueError, match=r"misshapen: bn1\.bias: got \(8,\), expected \(16,\)"):
        loop.train(tiny.system(other, *sources), workdir)
    assert not workdir.exists()
    (workdir / "export").mkdir(parents=True)
    (workdir / "export" / "notes.txt").touch()
    with pytest.raises(FileExistsError, match="is no saved model"):
        loop.train(tiny.system(frozen(file), *sources), workdir)
    assert [path.name for path in workdir.iterdir()] == ["export"]


def test_the_command_line_refuses_weights_before_it_opens_data(tmp_path, backbone):
    _, weights = backbone
    file = tmp_path / "cut.npz"
    np.savez(file, **{k: v for k, v in weights.items() if k != "conv1.weight"}, more=np.zeros(2))
    result = subprocess.run(
        [
            *(sys.executable, "-m", "segblocks_jax.experiments.cityscapes"),
            "--config=experiments/configs/cityscapes/quickstart.py",
            *("--config.model.width=8", f"--config.model.pretrained={file}"),
            *(f"--data_dir={tmp_path / 'data'}", f"--workdir={tmp_path / 'run'}"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 2
    assert "missing: conv1.weight\nleft over: more" in result.stderr
    assert "Traceback" not in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"cut.npz", "run"}
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {"lock", "compilation_cache"}
