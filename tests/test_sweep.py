"""Sweeps: what is done is not done again, by nobody; tables come from the records alone."""

import csv
import json
import pathlib
import threading
import time

import pytest
from tiny import config

from segblocks_jax.analysis import records as tables
from segblocks_jax.errors import UserError
from segblocks_jax.experiments import plan as planning
from segblocks_jax.experiments import sweep
from segblocks_jax.structured_config import ConfigError, fields_affecting, leaves
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.training.preemption import Preempted

ROOT = pathlib.Path(__file__).resolve().parent.parent
SWEEPS = sorted((ROOT / "experiments" / "ablations").glob("*.py"))


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on_from_its_checkpoint(finished):
    runs, steps = finished.folder, finished.steps
    # Stopped before step 4; the last checkpoint is step 2's; then the second run from its beginning.
    assert steps == [0, 1, 2, 3, 2, 3, 0, 1, 2, 3]
    records = tables.read_records(runs)
    assert sorted(record["time"]["from_step"] for record in records.values()) == [0, 2]


@pytest.mark.slow
def test_a_record_holds_what_made_it(finished):
    runs = finished.folder
    for key, record in tables.read_records(runs).items():
        assert planning.run_key(ExperimentConfig.from_mapping(record["config"])) == key
        assert record.keys() >= {"commit", "device", "data", "metrics", "counts", "time"}
        assert record["data"]["val"] == {"images": 3, "skipped": 0}
        counted = sum(record["counts"]["gmacs_by_part"].values())
        assert counted == pytest.approx(record["metrics"]["gmacs"], rel=1e-12)
        learned = record["config"]["policy"]["name"] == "reinforce"
        assert len(record["shares"]) == (3 if learned else 0)
        if learned:
            assert record["at_target"]["high_fraction"] == 0.5  # Three of six blocks.
            assert 0 <= record["at_target"]["miou"] <= 1
        else:
            assert record["at_target"] is None


@pytest.mark.slow
def test_operations_of_a_static_baseline_are_those_of_its_smaller_input(finished):
    runs = finished.folder
    records = tables.read_records(runs)
    (half,) = (r for r in records.values() if r["config"]["policy"]["name"] == "static")
    assert half["counts"]["size"] == [64, 96]
    dense = records[next(key for key in records if "reinforce" in key)]
    assert dense["counts"]["size"] == [128, 192]


@pytest.mark.slow
def test_rows_of_equal_configuration_share_a_run(finished):
    runs = finished.folder
    plan = finished.plan
    assert len(plan.rows) == 3
    assert len(plan.runs) == len(tables.read_records(runs)) == 2
    assert list(plan.rows["learned"]) == list(plan.rows["again"])


@pytest.mark.slow
def test_tables_come_from_the_records_byte_for_byte(finished):
    runs = finished.folder
    written = sorted((runs / "tables").iterdir())
    before = [path.read_bytes() for path in written]
    assert [path.name for path in written] == ["tiny.csv", "tiny.md"]
    for path in written:
        path.unlink()
    assert sorted(tables.write_tables(runs)) == written
    assert [path.read_bytes() for path in written] == before
    lines = list(csv.DictReader(before[0].decode().splitlines()))
    assert [line["row"] for line in lines] == list(finished.plan.rows)
    miou = [json.loads((runs / "runs" / n["run"] / "run.json").read_text()) for n in lines]
    assert [float(line["metrics/miou"]) for line in lines] == [r["metrics"]["miou"] for r in miou]
    text = before[1].decode()
    for line in lines:
        assert f"(../runs/{line['run']}/run.json)" in text


def test_means_over_seeds_with_their_deviation():
    def record(seed, miou):
        metrics = {"miou": miou, "gmacs": 1.5, "high_fraction": None}
        metrics |= {"boundary_ratio": None, "images_per_second": None}
        head = {
            "key": f"k{seed}",
            "commit": "0" * 40 + "+changes",
            "device": "d",
            "split": "s",
            "step": 1,
        }
        parts = {"at_target": None, "time": {"train_seconds": 2.0}, "config": {"seed": seed}}
        return {"metrics": metrics, **head, **parts}

    records = {"k0": record(0, 0.5), "k1": record(1, 0.52)}
    rows = [{"label": "a", "runs": ["k0", "k1"]}, {"label": "b", "runs": ["k2"]}]
    text = tables.format_markdown({"title": "T", "rows": rows}, records)
    assert (
        "| a | [0](../runs/k0/run.json), [1](../runs/k1/run.json) | 51.0 ± 1.4% | 1.500 |" in text
    )
    assert "| b | not run |" in text
    assert "commit 000000000000+changes)" in text


@pytest.mark.parametrize("text", ["", "{", "version https://git-lfs.github.com/spec/v1\n"])
def test_a_damaged_record_is_named(text, tmp_path):
    file = tmp_path / "runs" / "key" / "run.json"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    with pytest.raises(UserError, match=r"run\.json is damaged .*run its sweep again"):
        tables.write_tables(tmp_path)


def test_two_runners_on_one_folder_train_nothing_twice(tmp_path, monkeypatch):
    configs = {f"run{i}": config() for i in range(6)}
    done = []

    def train(key, _, folder, data_dir):
        done.append(key)
        time.sleep(0.05)
        (folder / sweep.RECORD).write_text("{}")

    monkeypatch.setattr(sweep, "train_and_record", train)
    monkeypatch.setattr(sweep.jax, "clear_caches", lambda: None)
    threads = [threading.Thread(target=sweep.run_all, args=(configs, tmp_path)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == sorted(configs)


@pytest.mark.parametrize(
    "error", [ValueError, FileNotFoundError, RuntimeError, KeyError, ConfigError]
)
def test_a_run_that_fails_does_not_stop_the_others(error, tmp_path, monkeypatch, capsys):
    configs = {"bad": config(), "good": config()}

    def train(key, _, folder, data_dir):
        if key == "bad":
            raise error("no such thing")
        (folder / sweep.RECORD).write_text("{}")

    monkeypatch.setattr(sweep, "train_and_record", train)
    monkeypatch.setattr(sweep.jax, "clear_caches", lambda: None)
    text = str(error("no such thing"))
    assert sweep.run_all(configs, tmp_path) == {"bad": f"{error.__name__}: {text}"}
    assert ("Traceback" in capsys.readouterr().err) == (error is not ConfigError)
    assert (tmp_path / "runs" / "good" / sweep.RECORD).is_file()


def test_a_signal_stops_all_runs(tmp_path, monkeypatch):
    def train(*_):
        raise Preempted(3)

    monkeypatch.setattr(sweep, "train_and_record", train)
    with pytest.raises(Preempted):
        sweep.run_all({"a": config(), "b": config()}, tmp_path)


def test_a_sweep_that_is_stopped_has_the_tables_of_what_is_done(tmp_path, monkeypatch):
    def run_all(*_):
        raise Preempted(3)

    monkeypatch.setattr(sweep, "run_all", run_all)
    plan = planning.make_plan("tiny", planning.Sweep("T", {"a": {}}), config().to_dict())
    with pytest.raises(Preempted):
        sweep.sweep([plan], tmp_path)
    assert "| a | not run |" in (tmp_path / "tables" / "tiny.md").read_text()


def test_seeds_that_are_asked_for_have_a_table_of_their_own(monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {planning.load_plan(SWEEPS[0], "camvid", s).name for s in (None, (0,), (1,), (0, 1))}
    assert len(names) == 4


def test_a_key_names_what_a_result_depends_on():
    key = planning.run_key(config())
    assert planning.run_key(config(name="other", data={"data_dir": "x", "workers": 2})) == key
    assert planning.run_key(config(loop={"log_every": 7, "wandb": "project"})) == key
    assert planning.run_key(config(seed=1)) != key
    assert planning.run_key(config(model={"implementation": "xla"})) != key
    assert planning.run_key(config(semantics={"padding": "zero"})) != key


def test_a_key_holds_every_field_and_the_schema(monkeypatch):
    """What a default was when a run was made is part of its name: a new default is another run."""
    key = planning.run_key(config())
    assert planning.run_key(config(loop={"eval_batch_size": 3})) != key
    assert planning.run_key(config(loop={"eval_sizes": 3})) != key
    with monkeypatch.context() as patch:
        patch.setattr(ExperimentConfig, "SCHEMA", ExperimentConfig.SCHEMA + 1)
        assert planning.run_key(config()) != key
    stored = ExperimentConfig.stored
    with monkeypatch.context() as patch:
        patch.setattr(ExperimentConfig, "stored", lambda self: {**stored(self), "new": 0.5})
        assert planning.run_key(config()) != key
    hashed = []
    monkeypatch.setattr(planning.json, "dumps", lambda fields, **_: hashed.append(fields) or "")
    planning.run_key(config())
    free = fields_affecting(ExperimentConfig, "nothing")
    assert hashed[0].keys() == {name for name, _, _ in leaves(ExperimentConfig)} - {*free} | {
        "schema"
    }


def test_a_row_that_cannot_run_is_named():
    bad = planning.Sweep("T", {"bad": {"policy.tagret": 1.0}})
    with pytest.raises(ConfigError, match=r"tiny, row 'bad': unknown field policy\.tagret"):
        planning.make_plan("tiny", bad, config().to_dict())
    with pytest.raises(ConfigError, match="--preset is 'kitti'; expected one of street_scenes"):
        planning.load_plan(SWEEPS[0], "kitti")


@pytest.mark.parametrize("preset", planning.PRESETS)
def test_every_sweep_builds_on_every_preset(preset, monkeypatch):
    monkeypatch.chdir(ROOT)
    plans = [planning.load_plan(file, preset) for file in SWEEPS]
    assert len(plans) == 11
    runs = {key for plan in plans for key in plan.runs}
    rows = sum(len(plan.rows) for plan in plans) * len(planning.PRESETS[preset].seeds)
    assert len(runs) < rows
    for file in SWEEPS:
        assert f"--sweep={file.relative_to(ROOT)}" in file.read_text()
    (claim,) = (plan for plan in plans if "gain, 0.2" in plan.rows)
    named = {
        kind: [r for label, r in claim.rows.items() if label.startswith(kind)]
        for kind in ("gain", "loss")
    }
    for kind, rows in named.items():
        assert {config.policy.reward for runs in rows for config in runs.values()} == {kind}
