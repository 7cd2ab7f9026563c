"""Errors that a user can mend are one line; bugs keep their traceback."""

import pytest

from segblocks_jax import errors
from segblocks_jax.experiments import run
from segblocks_jax.structured_config import ConfigError
from segblocks_jax.training.logging import NonFiniteError

KINDS = {
    errors.InvalidInputError: ValueError,
    errors.MissingFileError: FileNotFoundError,
    errors.TargetExistsError: FileExistsError,
    errors.MissingPackageError: ModuleNotFoundError,
    errors.UnavailableError: RuntimeError,
    NonFiniteError: FloatingPointError,
    ConfigError: ValueError,
}


def fails(monkeypatch, error):
    def read(*_):
        raise error

    monkeypatch.setattr(run, "_CONFIG", type("Flag", (), {"value": None}))
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
