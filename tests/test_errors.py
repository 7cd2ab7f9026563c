"""Errors that a user can mend are one line; bugs keep their traceback."""

import errno
import os
import pathlib
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from segblocks_jax import errors
from segblocks_jax.experiments import run
from segblocks_jax.structured_config import ConfigError
from segblocks_jax.training.logging import NonFiniteError

# ml_collections loads configuration files by it.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
KINDS = {
    errors.InputError: ValueError,
    errors.MissingFileError: FileNotFoundError,
    errors.TargetExistsError: FileExistsError,
    errors.MissingPackageError: ModuleNotFoundError,
    errors.UnavailableError: RuntimeError,
    NonFiniteError: FloatingPointError,
    ConfigError: ValueError,
}


def fails(monkeypatch, error):
    def read(*_, **__):
        raise error

    for flag in ("_CONFIG", "_DATA_DIR", "_SPLIT"):
        monkeypatch.setattr(run, flag, type("Flag", (), {"value": None}))
    monkeypatch.setattr(run, "read_system", read)
    return run._main(("cityscapes",))


@pytest.mark.parametrize("kind", KINDS)
def test_a_users_error_is_one_line(kind, monkeypatch, capsys):
    assert issubclass(kind, KINDS[kind])
    assert fails(monkeypatch, kind("data: no such folder")) == 2
    assert capsys.readouterr().err == "error: data: no such folder\n"


@pytest.mark.parametrize("kind", [*KINDS.values(), KeyError, TypeError])
def test_a_bug_keeps_its_traceback(kind, monkeypatch):
    with pytest.raises(kind, match="a bug"):
        fails(monkeypatch, kind("a bug"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENOTDIR])
def test_what_the_machine_refuses_is_one_line(number, monkeypatch, capsys):
    assert fails(monkeypatch, OSError(number, os.strerror(number), "/x")) == 2
    assert capsys.readouterr().err == f"error: [Errno {number}] {os.strerror(number)}: '/x'\n"


QUICKSTART = pathlib.Path(__file__).parent.parent / "experiments/configs/cityscapes/quickstart.py"


def parse(monkeypatch, *arguments):
    """Parses arguments as a process of its own would."""
    argv = ["program", *arguments]
    fresh = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, flag_values=fresh)
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(flags, "FLAGS", fresh)
    run._parse(argv)
    return fresh.config


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("policy.quantise_step=0.5", "policy.quantise_step; it is called policy.bucket_step now"),
        ("rematerialise=True", "rematerialise; it is called rematerialize now"),
        ("policy.tagret=0.5", "policy.tagret; did you mean policy.target?"),
        ("zzz=1", "zzz. Known: name, seed,"),
        ("seed.x=1", "unknown field seed.x; seed is no group of fields"),
        ("policy.target=abc", "could not convert string to float: 'abc'"),
        ("optim.steps=1.5", "invalid literal for int() with base 10: '1.5'"),
        ("policy=3", "`3` is not a dict"),
    ],
)
def test_a_wrong_flag_is_one_line(flag, text, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse(monkeypatch, f"--config={QUICKSTART}", f"--config.{flag}")
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert text in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("form", ["--config={}", "--config={}:text", "-config={}"])
def test_a_configuration_file_that_is_not_there(form, monkeypatch, capsys, tmp_path):
    with pytest.raises(SystemExit, match="2"):
        parse(monkeypatch, form.format(tmp_path / "a.py"), "--config.seed=1")
    assert capsys.readouterr().err == f"error: --config={tmp_path / 'a.py'}: no such file\n"


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("import math; math.nothing", AttributeError),
        ("{}['x']", KeyError),
        ("int('x')", flags.IllegalFlagValueError),
        ("config({}).polcy.target = 1", AttributeError),
    ],
)
def test_a_bug_in_a_configuration_file_keeps_its_traceback(line, kind, monkeypatch, tmp_path):
    file = tmp_path / "config.py"
    head = "from segblocks_jax.experiments.defaults import config\n\ndef get_config():\n    "
    file.write_text(head + line)
    with pytest.raises(kind):
        parse(monkeypatch, f"--config={file}")


def test_flags_that_may_be_none_take_values(monkeypatch):
    given = ("data.data_dir=/x", "model.features=12", "model.dilations=(1,2)", "loop.wandb=p")
    config = parse(monkeypatch, f"--config={QUICKSTART}", *(f"--config.{flag}" for flag in given))
    assert config.data.data_dir == "/x"
    assert config.model.features == 12
    assert config.model.dilations == (1, 2)
    assert config.loop.wandb == "p"
