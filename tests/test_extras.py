"""What is said where an extra is not installed."""

import importlib
import runpy
import sys

import pytest

COMMANDS = [
    ("experiments.camvid", "ml_collections", "train"),
    ("experiments.cityscapes", "ml_collections", "train"),
    ("experiments.mapillary", "ml_collections", "train"),
    ("experiments.sweep", "absl", "train"),
    ("analysis.report", "matplotlib", "report"),
    ("data.__main__", "PIL", "train"),
    ("data.street_scenes.__main__", "PIL", "images"),
]


@pytest.fixture
def missing(monkeypatch):
    """Makes a package fail to import, and this one's modules be imported anew."""

    def remove(package):
        for name in [n for n in sys.modules if n.startswith("segblocks_jax.")]:
            if name.split(".")[1] in ("analysis", "data", "experiments", "inference"):
                monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, package, None)

    return remove


@pytest.mark.parametrize(("command", "package", "name"), COMMANDS)
def test_commands_name_the_extra_in_one_line(command, package, name, missing, capsys):
    missing(package)
    with pytest.raises(SystemExit) as stop:
        runpy.run_module(f"segblocks_jax.{command}", run_name="__main__", alter_sys=True)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.endswith(f" needs {package}; pip install 'segblocks-jax[{name}]'\n")
    assert error.count("\n") == 1


def test_modules_name_the_extra(missing):
    missing("PIL")
    remedy = r"reading image files needs PIL; pip install 'segblocks-jax\[images\]'"
    with pytest.raises(ModuleNotFoundError, match=remedy) as caught:
        importlib.import_module("segblocks_jax.inference.predict")
    assert caught.value.name == "PIL"
