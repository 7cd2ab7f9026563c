"""A run's folder: one run in it at a time, nothing owed, nothing lost where it can't be written."""

import errno
import itertools
import json
import os
import signal

import pytest
from test_system import Config, Points

from segblocks_jax.errors import InUseError, UnwritableError
from segblocks_jax.training import checkpoint_files, loop
from segblocks_jax.training import lock as locking
from segblocks_jax.training.checkpoints import Checkpoints
from segblocks_jax.training.config import LoopConfig
from segblocks_jax.training.lock import lock
from segblocks_jax.training.preemption import Preempted
from segblocks_jax.training.workdir import open_checkpoints


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_second_run_in_a_workdir_is_refused_at_once(tmp_path):
    with lock(tmp_path):
        before = sorted(tmp_path.iterdir())
        with pytest.raises(InUseError, match=rf"process {os.getpid()} on .* trains here; wait for"):
            loop.train(Points(Config()), tmp_path)
        assert sorted(tmp_path.iterdir()) == before
    loop.train(Points(Config()), tmp_path)
    assert (tmp_path / "lock").read_text() == ""


def test_the_lock_of_a_run_that_was_killed_is_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "BEAT", 0.01)
    (tmp_path / "lock").write_text("elsewhere 7 1700000000.000\n")
    loop.train(Points(Config()), tmp_path)


class Worsening(Points):
    """Each evaluation finds less, and the first is stopped in its middle."""

    stops = True

    def evaluate(self, modules, *, on_batch=None):
        if type(self).stops:
            type(self).stops = False
            signal.raise_signal(signal.SIGTERM)
        result = super().evaluate(modules, on_batch=on_batch)
        self.evaluated = getattr(self, "evaluated", 0) + 1
        return type(result)(1 - self.evaluated / 10, result.macs)


def test_an_evaluation_that_was_stopped_is_made_up_for(tmp_path):
    Worsening.stops = True
    with pytest.raises(Preempted) as stop:
        loop.train(Worsening(Config()), tmp_path)
    assert stop.value.step == 20
    assert not (tmp_path / "eval_20.json").exists()
    system = Worsening(Config())
    loop.train(system, tmp_path)
    assert json.loads((tmp_path / "eval_20.json").read_text())["metrics"]["accuracy"] == 0.9
    with open_checkpoints(system, tmp_path) as checkpoints:
        assert checkpoints.best_step() == 20
        assert checkpoints.metrics(20) == {"accuracy": 0.9}
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    evaluated = [line["step"] for line in lines if "eval/accuracy" in line["values"]]
    assert evaluated == [20, 40]
    # All is evaluated: only what the run returns is found once more.
    again = Worsening(Config())
    loop.train(again, tmp_path)
    assert again.evaluated == 1


@pytest.mark.parametrize("place", ["_log", "evaluate"])
def test_a_run_that_could_not_save_does_not_say_that_it_stopped_in_good_order(
    place, tmp_path, monkeypatch
):
    owner = Points if place == "evaluate" else loop.Run
    calls, call = itertools.count(1), getattr(owner, place)

    def asked(*given, **options):
        if next(calls) == 1:
            signal.raise_signal(signal.SIGTERM)
        return call(*given, **options)

    monkeypatch.setattr(checkpoint_files, "write_inventory", full)
    monkeypatch.setattr(owner, place, asked)
    settings = Config(loop=LoopConfig(eval_every=20, checkpoint_every=40, log_every=10))
    with pytest.raises(UnwritableError, match="No space left on device"):
        loop.train(Points(settings), tmp_path)


def test_what_a_killed_save_left_is_removed(tmp_path):
    left = tmp_path / "checkpoints" / "10.orbax-checkpoint-tmp" / "state"
    left.mkdir(parents=True)
    loop.train(Points(Config()), tmp_path)
    assert not left.parent.exists()


@pytest.mark.parametrize("what", ["write_json", "save", "export"])
def test_scores_that_cannot_be_written_are_shown(what, tmp_path, monkeypatch, capsys):
    if what == "save":
        saves, save = itertools.count(), Checkpoints.save
        monkeypatch.setattr(
            Checkpoints, "save", lambda *a: full() if next(saves) == 3 else save(*a)
        )
    else:
        monkeypatch.setattr(*((loop, what) if what == "write_json" else (Points, what)), full)
    with pytest.raises(OSError, match="No space left"):
        loop.train(Points(Config()), tmp_path)
    assert "accuracy " in capsys.readouterr().err


def test_a_workdir_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(Points, "build", full)
    (tmp_path / "file").write_text("")
    for workdir in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UnwritableError, match=r"can't write here \(.*file: Not a directory\)"):
            loop.train(Points(Config()), workdir)
