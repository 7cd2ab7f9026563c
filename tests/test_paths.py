"""Paths as people write them: every place that takes one means what a shell would."""

import contextlib
import os
import pathlib
import sys
import types

import numpy as np
import pytest
import tiny
from flax import nnx
from ml_collections import ConfigDict

import segblocks_jax as sb
from segblocks_jax import paths
from segblocks_jax.analysis import records, report
from segblocks_jax.data import __main__ as data_main
from segblocks_jax.data import open_dataset
from segblocks_jax.data.street_scenes import SceneSet, write
from segblocks_jax.data.street_scenes import __main__ as scenes_main
from segblocks_jax.errors import InputError, UserError
from segblocks_jax.experiments import run, sweep
from segblocks_jax.inference.files import find_files
from segblocks_jax.interop import check_target, load_backbone
from segblocks_jax.systems.segblocks import seams
from segblocks_jax.systems.segblocks.build import open_source
from segblocks_jax.training.checkpoints import Checkpoints
from segblocks_jax.training.logging import RunLog


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The user's folder; the current one is another, and stays empty."""
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("RUNS", str(home))
    monkeypatch.chdir(here)
    yield home
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("~", "home"),
        ("~/a", "home/a"),
        ("~/a/", "home/a"),
        ("$HOME/a", "home/a"),
        ("${HOME}/a//b", "home/a/b"),
        ("$RUNS/$NUMBER", "home/7"),
        ("a", "here/a"),
        ("./a/../b", "here/a/../b"),  # As `a` may be a link.
        ("~nobody-of-this-name.png", "here/~nobody-of-this-name.png"),
        ("price$.png", "here/price$.png"),
    ],
)
def test_a_path_is_what_a_shell_makes_of_it(written, meant, home, tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBER", "7")
    assert paths.expand(written) == tmp_path / meant
    assert paths.expand(pathlib.Path(written)) == tmp_path / meant


def test_links_stay_links(tmp_path):
    (tmp_path / "link").symlink_to("elsewhere")
    assert paths.expand(tmp_path / "link") == tmp_path / "link"


def test_what_was_not_set_is_no_folder(home):
    with pytest.raises(InputError, match=r"was a variable not set\?"):
        paths.expand("")
    with pytest.raises(InputError, match=r"\$UNSET/a: the variable \$UNSET is not set"):
        paths.expand("$UNSET/a")
    with pytest.raises(InputError, match="there is no user nobody-of-this-name;"):
        paths.expand("~nobody-of-this-name/a")
    (home / "$UNSET").mkdir()
    (home / "~nobody-of-this-name").mkdir()
    os.chdir(home)
    assert paths.expand("$UNSET/a").name == "a"
    assert paths.expand("~nobody-of-this-name/a").name == "a"


def command(main, *arguments, name="--data_dir"):
    """A command line with the path in one flag."""

    def run(path):
        sys.argv = ["command", *arguments, f"{name}={path}"]
        with contextlib.suppress(SystemExit):
            main()

    return run


def in_environment(path):
    os.environ["SEGBLOCKS_DATA_DIR"] = path
    open_dataset("camvid")


def in_config(path):
    open_source(tiny.config(data={"dataset": "camvid", "data_dir": path}), "val")


# What reads: where nothing is, the error names what was looked for.
READERS = {
    "load_model": sb.load_model,
    "load_spec": sb.load_spec,
    "Engine.load": sb.Engine.load,
    "ExportedEngine": sb.ExportedEngine,
    "weights": lambda path: sb.load_torch_state_dict(nnx.Dict(), path + ".npz"),
    "backbone": lambda path: load_backbone(nnx.Dict(), path + ".npz"),
    "open_dataset": lambda path: open_dataset("camvid", path),
    "environment": in_environment,
    "config": in_config,
    "predict input": lambda path: find_files(pathlib.Path(path)),
    "checkpoints": lambda path: Checkpoints(path, model="m").read_extra(),
    "report": lambda path: report.write_report(pathlib.Path(path)),
    "data": command(data_main.main, "prepare", "cityscapes", "--splits=val"),
    "report command": command(report.main, name="--runs"),
    "seams command": command(seams.main, name="--model"),
}


@pytest.mark.parametrize("door", READERS)
@pytest.mark.parametrize("written", ["~/x", "$HOME/x"])
def test_what_reads_looks_there(door, written, home, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setenv("SEGBLOCKS_DATA_DIR", "")
    told = ""
    try:
        READERS[door](written)
    except (UserError, FileNotFoundError) as error:
        told = str(error)
    told += "".join(capsys.readouterr())
    assert str(home / "x") in told
    assert "~" not in told
    assert "$HOME" not in told


def saved(path):  # `save_model` begins with it.
    check_target(path).mkdir()


def checkpoint(path):
    with Checkpoints(path, model="m") as checkpoints:
        checkpoints.save(1, {"x": np.ones(1)})


# What writes: there it is afterward.
SCENES = ("--train=1", "--val=1", "--height=32", "--width=64")
WRITERS = {
    "save_model": saved,
    "checkpoints": checkpoint,
    "log": lambda path: RunLog(path).close(),
    "street scenes": lambda path: write(path, SceneSet(1, 1, 32, 64)),
    "street scenes command": command(scenes_main.main, *SCENES, name="--out"),
    "data_dir of scenes": lambda path: open_dataset(
        "street_scenes", path, "val", scenes=SceneSet(1, 1, 32, 64)
    ),
    "records command": lambda path: (
        (pathlib.Path(os.environ["HOME"]) / "x/sweeps").mkdir(parents=True),
        (pathlib.Path(os.environ["HOME"]) / "x/sweeps/s.json").write_text(
            '{"name": "s", "title": "t", "rows": []}'
        ),
        command(records.main, name="--runs")(path),
        (pathlib.Path(os.environ["HOME"]) / "x/tables/s.md").read_text(),
    ),
}


@pytest.mark.parametrize("door", WRITERS)
def test_what_writes_puts_it_there(door, home, monkeypatch):
    monkeypatch.setattr(sys, "argv", [])
    WRITERS[door]("~/x/")
    assert (home / "x").exists()


def test_flags_of_experiments(home, monkeypatch):
    flags = {"_WORKDIR": "~/run", "_OUTPUT": "$HOME/out", "_CHECKPOINT": "best", "_MODE": "eval"}
    unset = dict.fromkeys(("_DATA_DIR", "_SPLIT", "_PHASE"))
    for name, value in {"_CONFIG": ConfigDict(), **flags, **unset}.items():
        monkeypatch.setattr(run, name, types.SimpleNamespace(value=value))
    monkeypatch.setattr(run.jax.config, "update", lambda *_: None)
    given = []
    monkeypatch.setattr(run.commands, "evaluate", lambda *arguments: given.extend(arguments) or 0)
    monkeypatch.setattr(run, "read_system", lambda *_, **__: "system")
    monkeypatch.setattr(run, "_start_distributed", lambda: None)
    assert run._main(()) == 0
    assert given == ["system", home / "run", "best", home / "out"]
    assert run._expand_config("--config=~/a.py") == f"--config={home}/a.py"
    assert run._expand_config("--config.data.data_dir=~/a") == "--config.data.data_dir=~/a"


def test_flags_of_sweeps(home, monkeypatch, capsys):
    monkeypatch.setattr(sweep.importlib.util, "find_spec", lambda _: None)
    assert sweep.main(["--runs=~/x", "--sweep=~/a.py"]) == 2
    assert f"no file {home}/a.py" in capsys.readouterr().err
    monkeypatch.setattr(sweep, "load_plan", lambda *_: None)
    monkeypatch.setattr(sweep, "sweep", lambda plans, runs, _: {str(runs): "x"})
    assert sweep.main(["--runs=~/x", "--sweep=a", "--no_report"]) == 1
    assert f"{home}/x" in capsys.readouterr().err


def test_a_relative_path_stays_where_it_was_when_the_folder_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints, log = Checkpoints("run", model="m"), RunLog("run")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    with checkpoints, log:
        checkpoints.save(1, {"x": np.ones(1)})
        log.scalars(1, {"loss": 1})
    assert (tmp_path / "run/1").is_dir()
    assert list((tmp_path / "other").iterdir()) == []
