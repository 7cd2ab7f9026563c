"""Checkpoints that lost a part of a file: which one is told, and from which step one can go on."""

import errno
import logging
import os
import re
import shlex
import subprocess

import numpy as np
import pytest

from segblocks_jax.errors import UnwritableError, UserError
from segblocks_jax.training import checkpoint_files
from segblocks_jax.training.checkpoint_files import DamagedCheckpointError, writing
from segblocks_jax.training.checkpoints import Checkpoints

# Where it fails, Orbax leaves coroutines behind.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

STATE = {"weights": np.random.default_rng(0).random(5000), "step": np.ones(1)}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
WAYS = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "pointer": lambda content: POINTER,
    "missing": None,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    with Checkpoints(folder, model="m") as checkpoints:
        checkpoints.save(2, STATE, {"at": 2}, {"miou": 0.3})
        checkpoints.save(4, STATE, {"at": 4}, {"miou": 0.2})
    return folder


def read(folder, step="latest"):
    with Checkpoints(folder, model="m") as checkpoints:
        return checkpoints.restore(STATE, step)


@pytest.mark.parametrize("way", WAYS)
def test_every_file_in_turn(whole, way):
    told = set()
    for path in sorted(p for p in (whole / "4").rglob("*") if p.is_file()):
        content = path.read_bytes()
        damaged = WAYS[way] and WAYS[way](content)
        path.unlink() if damaged is None else path.write_bytes(damaged)
        try:
            state, _, _ = read(whole)
            np.testing.assert_array_equal(state["weights"], STATE["weights"])  # Not needed.
        except DamagedCheckpointError as error:
            text = str(error)
            assert text.startswith(f"step 4 in {whole} is damaged: {path} ")
            assert "Step 2 is whole" in text
            told.add(path.parent.name + "/" + path.name)
        finally:
            path.write_bytes(content)
    assert {"record/metadata", "state/manifest.ocdbt"} < told
    assert len(told) >= (4 if way == "missing" else 6)


def test_what_the_error_says_goes_on_from_the_step_that_is_whole(whole):
    data = max((whole / "4").rglob("d/*"), key=lambda p: p.stat().st_size)
    content = data.read_bytes()
    data.write_bytes(content[:100])
    with pytest.raises(UserError, match=rf"has 100 of {len(content)} bytes") as caught:
        read(whole)
    assert read(whole, int(re.search(r"--checkpoint=(\d+)", str(caught.value))[1]))[1] == {"at": 2}
    (move,) = re.findall(r"\n  (mv .*)\n", str(caught.value))
    try:
        subprocess.run(shlex.split(move), check=True)
        assert read(whole)[1] == {"at": 2}
    finally:
        (whole / "damaged_4").rename(whole / "4")
        data.write_bytes(content)


def test_without_an_inventory_the_reader_says_what_it_could_not_decode(whole):
    data = max((whole / "4").rglob("d/*"), key=lambda p: p.stat().st_size)
    inventory = (whole / "4" / "state_files.json").read_bytes()
    content = data.read_bytes()
    (whole / "4" / "state_files.json").unlink()
    data.write_bytes(content[:100])
    try:
        with pytest.raises(DamagedCheckpointError, match=r"/4/state/ can't be decoded\. Step 2"):
            read(whole)
    finally:
        (whole / "4" / "state_files.json").write_bytes(inventory)
        data.write_bytes(content)


def test_without_another_step_there_is_none_to_go_on_from(tmp_path):
    with Checkpoints(tmp_path, model="m") as checkpoints:
        checkpoints.save(1, STATE)
    (tmp_path / "1/record/metadata").write_bytes(b"")
    with pytest.raises(DamagedCheckpointError, match=r"is empty\. No other step is whole\."):
        read(tmp_path)


def test_a_full_disk_is_one_line(tmp_path, monkeypatch, caplog):
    with Checkpoints(tmp_path, model="m") as checkpoints:
        checkpoints.save(1, STATE)
        checkpoints.wait()

        def full(*_, **__):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(checkpoint_files, "write_inventory", full)
    with Checkpoints(tmp_path, model="m") as checkpoints, caplog.at_level(logging.ERROR):
        checkpoints.save(2, STATE)
        with pytest.raises(
            UnwritableError, match="No space left on device; the earlier checkpoints"
        ):
            checkpoints.wait()
    assert caplog.text == ""
    assert read(tmp_path)[2] == 1


def test_of_tensorstores_text_only_the_reason_is_left(tmp_path):
    text = "RESOURCE_EXHAUSTED: Error writing ...: No space left on device [os_error_code='28']"
    with pytest.raises(UnwritableError) as caught, writing(tmp_path):
        raise ValueError(text)
    assert str(caught.value).startswith(f"{tmp_path}: No space left on device;")
    with pytest.raises(ValueError, match="other"), writing(tmp_path):
        raise ValueError("other")
