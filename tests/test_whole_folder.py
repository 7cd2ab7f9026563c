"""Folders that are written whole: killed at every step, through links, in place, side by side."""

import os
import pathlib
import subprocess
import sys

import pytest

from segblocks_jax.paths import (
    current_file,
    is_own,
    partial_folder,
    whole_folder,
)

NAMES = ("config.json", "weights.safetensors")


def write(folder, text, replace=True):
    with whole_folder(folder, replace) as fresh:
        for name in NAMES:
            (fresh / name).write_text(text)


def read(folder):
    return {current_file(pathlib.Path(folder), name).read_text() for name in NAMES}


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


# Kills a child before every change of the file system, one after the other, and looks at what is left.
KILLS = """
import os, pathlib, sys

from segblocks_jax.paths import current_file, whole_folder
CHANGES = ("os.mkdir", "os.rename", "os.rmdir", "os.remove", "os.chmod", "open")

def write(folder, text, kill=None):
    left = kill
    def hook(event, arguments):
        nonlocal left
        if event in CHANGES and (event != "open" or "w" in str(arguments[1])):
            if left == 0:
                os._exit(9)
            left -= 1
    if kill is not None:
        sys.addaudithook(hook)
    with whole_folder(folder, replace=True) as fresh:
        for name in {names!r}:
            (fresh / name).write_text(text)

def count(parent, old):
    for kill in range(100):
        folder = parent / str(kill) / "model"
        if old:
            write(folder, "old")
        child = os.fork()
        if not child:
            write(folder, "new", kill)
            os._exit(0)
        if not os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            return kill
        files = [current_file(folder, name) for name in {names!r}]
        found = [file.read_text() if file.exists() else None for file in files]
        assert found[0] == found[1] and found[0] in ("old" if old else None, "new"), (kill, found)
        write(folder, "next")
        assert sorted(os.listdir(folder)) == list({names!r}), kill
        assert os.listdir(folder.parent) == ["model"], kill

print(count(pathlib.Path("replaced"), True), count(pathlib.Path("new"), False))
"""


def test_every_kill_leaves_the_old_or_the_new_and_the_next_writer_cleans_up(tmp_path):
    script = KILLS.format(names=NAMES)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    steps = [int(number) for number in result.stdout.split()]
    assert steps == [10, 5]  # Changes of the file system on the way.


def test_an_error_leaves_everything_as_it_was(tmp_path):
    write(tmp_path / "model", "old")

    def fail():
        with whole_folder(tmp_path / "model", True) as fresh:
            (fresh / NAMES[0]).write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert read(tmp_path / "model") == {"old"}
    assert entries(tmp_path) == ["model"]
    assert entries(tmp_path / "model") == list(NAMES)


def test_links_stay_and_their_targets_are_written(tmp_path):
    write(tmp_path / "run7", "old")
    (tmp_path / "latest").symlink_to("run7")
    write(tmp_path / "latest", "new")
    (tmp_path / "dangling").symlink_to("run8")
    write(tmp_path / "dangling", "new")
    assert read(tmp_path / "run7") == read(tmp_path / "run8") == {"new"}
    assert (tmp_path / "latest").is_symlink()
    assert (tmp_path / "dangling").is_symlink()
    assert entries(tmp_path) == ["dangling", "latest", "run7", "run8"]


def test_the_current_folder_stays_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = tmp_path.stat().st_ino
    for text in ("old", "new"):
        write(".", text)
        assert read(".") == {text}
    assert tmp_path.stat().st_ino == before  # So a mount point is one still.


def test_modes_of_the_folder_and_of_its_files_are_kept(tmp_path):
    folder = tmp_path / "model"
    write(folder, "old")
    folder.chmod(0o750)
    (folder / NAMES[1]).chmod(0o600)
    write(folder, "new")
    assert read(folder) == {"new"}
    modes = [path.stat().st_mode & 0o777 for path in (folder, folder / NAMES[1])]
    assert modes == [0o750, 0o600]


def test_who_comes_second_is_told_or_replaces(tmp_path):
    def both(folder, replace):
        with whole_folder(folder, replace) as first:
            (first / "a").write_text("first")
            with whole_folder(folder, replace) as second:
                (second / "a").write_text("second")

    with pytest.raises(FileExistsError, match="another process has written it"):
        both(tmp_path / "once", replace=False)
    both(tmp_path / "again", replace=True)
    assert [(tmp_path / name / "a").read_text() for name in ("once", "again")] == [
        "second",
        "first",
    ]
    assert entries(tmp_path) == ["again", "once"]


def test_what_a_living_process_writes_is_left_alone(tmp_path):
    with partial_folder(tmp_path) as first:
        with partial_folder(tmp_path) as second:
            assert first.is_dir()
            assert all(is_own(path.name) for path in (first, second))
        assert entries(tmp_path) == [first.name]
    assert entries(tmp_path) == []
