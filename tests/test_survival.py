"""Runs that are stopped, killed and moved go on as if nothing had been."""

import dataclasses
import json
import os
import pathlib
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import take_steps
import tiny
from test_sharding import free_port, mesh

from segblocks_jax.structured_config import ConfigError
from segblocks_jax.systems.segblocks.build import open_source
from segblocks_jax.training import flat_state, loop
from segblocks_jax.training.checkpoints import Checkpoints
from segblocks_jax.training.preemption import EXIT_CODE
from segblocks_jax.training.workdir import Timing, check_same_config

ROOT = pathlib.Path(__file__).resolve().parent.parent
STEPS, EVERY = 20, 5
PATIENCE = 1200  # seconds that a program may take to get somewhere


@dataclasses.dataclass(frozen=True)
class Runs:
    """Starts programs of one experiment; the data and what is compiled are shared."""

    folder: pathlib.Path

    def start(self, workdir, *more, devices=1, steps=STEPS):
        cache = self.folder / "undisturbed" / "compilation_cache"
        if cache.is_dir() and not workdir.exists():
            shutil.copytree(cache, workdir / "compilation_cache")
        settings = {
            "data.crop": "(128,128)",
            "data.scenes": "(8,3)",
            "data.scene_size": "(128,192)",
            "model.width": 8,
            "model.features": 12,
            "policy.block_size": 64,
            "policy.bucket_step": 1.0,  # One program, or two.
            "optim.batch_size": 4,
            "optim.steps": steps,
            "loop.checkpoint_every": EVERY,
            "loop.log_every": 1,
        }
        command = [
            *(sys.executable, "-m", "segblocks_jax.experiments.cityscapes"),
            f"--config={ROOT / 'experiments/configs/cityscapes/quickstart.py'}",
            *(f"--data_dir={self.folder / 'data'}", f"--workdir={workdir}"),
            *(f"--config.{name}={value}" for name, value in settings.items()),
            *more,
        ]
        return self.run(command, devices)

    def run(self, command, devices=1):
        flags = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count="
        environment = {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{flags}{devices}",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            # Else the cache's path is part of its keys, and a copy is of no use.
            "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
        }
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env=os.environ | environment, stdout=pipe, stderr=pipe, text=True
        )


def finish(program, code=0):
    out, err = program.communicate(timeout=PATIENCE)
    assert program.returncode == code, err
    return out, err


def last_step(workdir):
    """Of the log so far; 0 where there is none."""
    log = workdir / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def wait_for(program, workdir, step):
    end = time.monotonic() + PATIENCE
    while last_step(workdir) < step:
        assert program.poll() is None, program.communicate()[1]
        assert time.monotonic() < end, f"no step {step} in {PATIENCE} s"
        time.sleep(0.02)


def a_state(policy):
    """Of the experiment, before any step."""
    settings = tiny.config(policy)
    return tiny.trainer(settings)[1]


def saved(workdir, step="latest", policy="reinforce"):
    """A checkpoint's arrays by name, and its step."""
    with Checkpoints(workdir / "checkpoints", model="any") as checkpoints:
        state, _, found = checkpoints.restore(a_state(policy), step)
    return flat_state.storable(flat_state.flatten(state)), found


def check_same_end(workdir, expected):
    got, step = saved(workdir)
    assert step == expected[1]
    for name, value in expected[0].items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def undisturbed(runs):
    workdir = runs.folder / "undisturbed"
    out, err = finish(runs.start(workdir))
    assert "mIoU" in out
    assert "compiled the step for 16 of a device's 16 blocks high in" in err
    assert "s: the first batch that needs it" in err
    return saved(workdir)


@pytest.mark.slow
def test_a_killed_run_ends_as_an_undisturbed_one(runs, undisturbed, tmp_path):
    workdir = tmp_path / "killed"
    program = runs.start(workdir)
    wait_for(program, workdir, 13)
    program.kill()
    program.communicate()
    assert saved(workdir)[1] in (5, 10)
    _, err = finish(runs.start(workdir))
    assert "continuing from step" in err
    assert "read from the compilation cache the step for" in err
    check_same_end(workdir, undisturbed)
    timing = json.loads((workdir / f"eval_{STEPS}.json").read_text())["timing"]
    assert timing["starts"] == 2
    assert timing["seconds"] > 0


@pytest.mark.slow
def test_sigterm_saves_and_says_how_to_continue(runs, undisturbed, tmp_path):
    workdir = tmp_path / "stopped"
    program = runs.start(workdir)
    wait_for(program, workdir, 6)
    program.terminate()
    out, err = finish(program, EXIT_CODE)
    assert "SIGTERM: saving after this step" in err
    step = saved(workdir)[1]
    assert 6 <= step < STEPS
    first, _, command = out.rstrip().rpartition("\n")
    assert f"stopped by a signal after step {step}, which is saved; to continue:" in first
    assert not (workdir / "export").exists()
    finish(runs.run(shlex.split(command)))
    check_same_end(workdir, undisturbed)


@pytest.mark.slow
def test_all_processes_stop_at_the_step_that_one_is_asked_at(runs, tmp_path):
    workdir, address = tmp_path / "both", f"localhost:{free_port()}"
    others = ("--distributed", f"--coordinator={address}", "--num_processes=2")
    others += ("--config.policy.name=static",)
    programs = [
        runs.start(workdir, *others, f"--process_id={process}", steps=500) for process in (0, 1)
    ]
    wait_for(programs[0], workdir, 2)
    programs[1].terminate()
    (out, _), (silent, _) = (finish(program, EXIT_CODE) for program in programs)
    state, step = saved(workdir, policy="static")  # By one process, on one device.
    assert f"after step {step}, which is saved; to continue:" in out
    assert "continue" not in silent
    assert 2 <= step < 500
    assert int(state["step"]) == step
    assert last_step(workdir) == step


@pytest.mark.slow
def test_processes_and_devices_evaluate_as_one(runs, undisturbed):
    workdir, address = runs.folder / "undisturbed", f"localhost:{free_port()}"
    expected = json.loads((workdir / "eval.json").read_text())["metrics"]
    assert expected["images"] == 3
    others = ("--mode=eval", "--distributed", f"--coordinator={address}", "--num_processes=2")
    programs = [
        runs.start(workdir, *others, f"--process_id={process}", devices=2) for process in (0, 1)
    ]
    (out, _), (silent, _) = map(finish, programs)
    assert "mIoU" in out
    assert "mIoU" not in silent
    got = json.loads((workdir / "eval.json").read_text())
    assert got["devices"] == 4
    for name in expected.keys() - {"images_per_second"}:
        assert got["metrics"][name] == expected[name], name


def test_a_state_of_four_devices_goes_on_on_one(tmp_path):
    settings, batches = take_steps.settings(), map(take_steps.batch, range(3))
    step, state = take_steps.trainer(settings, mesh(4))
    for batch in (next(batches), next(batches)):
        state, _ = step(state, batch)
    with Checkpoints(tmp_path, model="small") as checkpoints:
        checkpoints.save(2, state)
        alone, template = take_steps.trainer(settings, mesh(1))
        restored, _, _ = checkpoints.restore(template)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert a.sharding.device_set == {jax.devices()[0]}
        if a.dtype != state.key.dtype:
            np.testing.assert_array_equal(a, b)
    restored, metrics = alone(restored, next(batches))
    assert int(restored.step) == 3
    assert np.isfinite(float(metrics["loss"]))


def test_another_configuration_is_refused_with_every_field(tmp_path):
    before = tiny.config()
    stored = json.loads(json.dumps(before.to_dict()))
    check_same_config(stored, before, tmp_path)
    free = {"data": {"workers": 2, "data_dir": "x"}, "loop": {"log_every": 9}, "name": "other"}
    check_same_config(stored, tiny.config(**free), tmp_path)
    other = tiny.config("middle", optim={"learning_rate": 1.0}, data={"crop": (64, 128)})
    with pytest.raises(ConfigError) as refused:
        check_same_config(stored, other, tmp_path)
    text = str(refused.value)
    assert f"{tmp_path} holds a run of another configuration:\n" in text
    assert "\n  data.crop: [128, 128] there, [64, 128] now\n" in text
    assert "\n  optim.learning_rate: 0.001 there, 1.0 now\n" in text
    assert "\n  policy.name: 'reinforce' there, 'middle' now\n" in text
    assert text.count(" there, ") == 3
    assert "Use another workdir, or put these fields back; these may differ: name," in text


def test_a_stored_field_that_is_missing_is_no_default_of_today(tmp_path):
    now = tiny.config()
    stored = json.loads(json.dumps(now.stored()))
    check_same_config(stored, now, tmp_path)
    del stored["optim"]["accumulate"]
    with pytest.raises(ConfigError, match=r"can't be continued: .* lacks optim\.accumulate"):
        check_same_config(stored, now, tmp_path)
    # Before schemas it had one value, whatever its default has become.
    del stored["schema"]
    check_same_config(stored, now, tmp_path)
    with pytest.raises(ConfigError, match=r"accumulate: 1 there, 2 now"):
        check_same_config(stored, tiny.config(optim={"accumulate": 2}), tmp_path)
    stored = {**now.stored(), "schema": 99}
    known = re.escape(str(tuple(range(now.SCHEMA + 1))))
    with pytest.raises(
        ConfigError, match=rf"schema 99, which can't be read; expected one of {known}"
    ):
        check_same_config(stored, now, tmp_path)


def test_how_a_run_is_evaluated_may_not_change_within_it(tmp_path):
    stored = tiny.config().stored()
    for field in ("eval_batch_size", "eval_sizes"):
        with pytest.raises(ConfigError, match=rf"loop\.{field}: \d there, 5 now"):
            check_same_config(stored, tiny.config(loop={field: 5}), tmp_path)


def test_a_run_of_another_configuration_is_left_alone(tmp_path):
    settings = tiny.config("static", optim={"steps": 8})
    with Checkpoints(tmp_path / "run/checkpoints", model="any") as checkpoints:
        checkpoints.save(1, {"x": np.ones(1)}, {"config": settings.to_dict(), "batches": {}})
    before = sorted(tmp_path.rglob("*"))
    source = open_source(settings, "val", str(tmp_path / "data"))
    other = tiny.system(tiny.config("static", optim={"steps": 9}), source, source)
    with pytest.raises(ConfigError, match=r"optim.steps: 8 there, 9 now"):
        loop.train(other, tmp_path / "run")
    assert [path for path in sorted(tmp_path.rglob("*")) if "data" not in path.parts] == before


def test_the_time_of_a_run_goes_on():
    timing = Timing.after({"starts": 2, "seconds": 100.0})
    assert timing.starts == 3
    assert 100 <= timing.seconds < 160
    assert timing.to_dict()["seconds"] >= 100
    assert Timing.after(None).before == 0


@pytest.mark.skipif(
    "SEGBLOCKS_KILLS" not in os.environ, reason="takes long: set SEGBLOCKS_KILLS=20"
)
def test_many_random_kills_change_nothing(tmp_path):
    runs, kills, steps = Runs(tmp_path), int(os.environ["SEGBLOCKS_KILLS"]), 200
    undisturbed = runs.folder / "undisturbed"
    finish(runs.start(undisturbed, steps=steps))
    expected = saved(undisturbed)
    workdir, dice, at = tmp_path / "killed", random.Random(0), []
    for _ in range(kills):
        program = runs.start(workdir, steps=steps)
        wait_for(program, workdir, min(last_step(workdir) + dice.randint(0, 12), steps - 1))
        time.sleep(dice.uniform(0, 1))
        program.send_signal(signal.SIGKILL)
        program.communicate()
        assert program.returncode == -signal.SIGKILL
        at.append(last_step(workdir))
    print("killed at", at)
    finish(runs.start(workdir, steps=steps))
    check_same_end(workdir, expected)
