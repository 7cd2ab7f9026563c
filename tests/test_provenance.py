"""Where results come from."""

import pathlib
import subprocess

import pytest

from segblocks_jax.training import provenance


@pytest.fixture(autouse=True)
def _nothing_remembered():
    """`commit` asks git once a process, which other tests may have done."""
    provenance.commit.cache_clear()
    yield
    provenance.commit.cache_clear()


@pytest.fixture
def checkout(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A repository with one committed module, which `commit` is told it lies in."""
    module = tmp_path / "module.py"
    module.write_text("one\n")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True)
    monkeypatch.setattr(provenance, "__file__", str(module))
    return module


def test_commit_names_the_checkout_and_its_changes(checkout):
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=checkout.parent, capture_output=True, text=True
    ).stdout.strip()
    assert len(head) == 40
    assert provenance.commit() == head
    checkout.write_text("two\n")
    assert provenance.commit() == head  # What runs was read before the edit.
    provenance.commit.cache_clear()
    assert provenance.commit() == head + "+changes"


def test_commit_is_none_for_a_package_that_the_repository_does_not_track(checkout, monkeypatch):
    installed = checkout.parent / "site-packages.py"
    installed.write_text("installed\n")
    monkeypatch.setattr(provenance, "__file__", str(installed))
    assert provenance.commit() is None


def test_commit_is_none_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.commit() is None


def test_the_processor_is_named():
    name = provenance.device_name()
    assert name
    assert name != "cpu"
