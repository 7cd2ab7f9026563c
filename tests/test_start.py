"""Trainings that start from the network of another run, and phases in one configuration."""

import dataclasses
import functools
import importlib.util
import json
import pathlib

import jax
import ml_collections
import numpy as np
import pytest
import tiny
from flax import nnx
from safetensors.numpy import load_file

import segblocks_jax as sb
from segblocks_jax.analysis.records import RECORD, run_folder
from segblocks_jax.errors import UserError
from segblocks_jax.experiments import sweep as sweeps
from segblocks_jax.experiments.phases import find_phase, plan_of
from segblocks_jax.experiments.plan import Sweep, make_plan, start_of
from segblocks_jax.experiments.run import read_system
from segblocks_jax.interop import load_spec
from segblocks_jax.structured_config import ConfigError
from segblocks_jax.systems.segblocks.start import find_start
from segblocks_jax.systems.segblocks.step import TrainStep
from segblocks_jax.training.checkpoints import Checkpoints
from segblocks_jax.training.state import create_optimizer, create_state

ROOT = pathlib.Path(__file__).resolve().parent.parent
PHASES = ROOT / "experiments/configs/camvid/efflite1_phases.py"


def saved_run(workdir, policy="static", change=0.5, **changes):
    """Checkpoints of a run whose averages at step 3 are its first weights plus a number, at 1 less; its system."""
    system = tiny.system(tiny.config(policy, optim={"ema": 0.9}, **changes))
    optimizer = create_optimizer(system.config.optim, system.multipliers())
    _, state = create_state(system.build(), optimizer, 0, average=True)
    with Checkpoints(workdir / "checkpoints", model="any") as checkpoints:
        extra = {"config": json.loads(json.dumps(system.config.stored()))}
        for step, by in ((1, -change), (3, change)):
            average = jax.tree.map(lambda x, by=by: x + by, (state.params, state.stats))
            checkpoints.save(step, dataclasses.replace(state, average=average), extra)
    return system


@functools.cache
def fresh():
    """A system of random weights of its own."""
    return tiny.system(tiny.config(seed=1)).build()


def started(init_from, workdir=None, **changes):
    """(modules before, modules after, record) of a run with other random weights that starts there."""
    changes = {"init_from": str(init_from), **changes}
    after = nnx.clone(fresh())
    record = tiny.system(tiny.config(model=changes, seed=1)).load_pretrained(after, workdir)
    return fresh(), after, record


def same(a, b):
    pairs = zip(jax.tree.leaves(nnx.state(a)), jax.tree.leaves(nnx.state(b)), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


@pytest.mark.slow
def test_a_run_starts_from_the_averages_of_another_and_with_a_policy_of_its_own(tmp_path):
    first = saved_run(tmp_path / "first").build()
    expected = jax.tree.map(lambda x: x + 0.5, nnx.state(first.net))
    records = []
    for name in (tmp_path / "first", tmp_path / "first/checkpoints/3", "@first"):
        before, after, record = started(name, tmp_path / "second")
        for a, b in zip(
            jax.tree.leaves(nnx.state(after.net)), jax.tree.leaves(expected), strict=True
        ):
            np.testing.assert_array_equal(a, b)
        assert same(before.policy, after.policy)
        assert record["file"] == str(name)
        assert (record["step"], record["parts"]) == (3, "net")
        records.append(record["sha256"])
    assert len(set(records)) == 1
    before = started(tmp_path / "first/checkpoints/1")[2]
    assert before["step"] == 1
    assert before["sha256"] != records[0]
    saved_run(tmp_path / "other", change=0.25)
    assert started(tmp_path / "other")[2]["sha256"] != records[0]


def test_a_saved_model_is_a_start_too_with_its_policy_if_wanted(tmp_path):
    system = tiny.system(tiny.config())
    model = system.build()
    sb.save_model(tmp_path / "model", model, system.spec)
    _, after, record = started(tmp_path / "model", init_policy=True)
    assert same(after, model)
    assert record["step"] is None
    assert record["parts"] == "net and policy"
    before, after, _ = started(tmp_path / "model")
    assert same(after.net, model.net)
    assert same(after.policy, before.policy)
    assert not same(after.policy, model.policy)


@pytest.mark.slow
def test_what_does_not_fit_is_refused(tmp_path):
    saved_run(tmp_path / "wide", model={"width": 16})
    with pytest.raises(UserError, match=r"don't fit:\n  \d+ of another shape or dtype:\n"):
        started(tmp_path / "wide")
    saved_run(tmp_path / "other", model={"name": "swiftnet_rn34"})
    with pytest.raises(UserError, match=r"another network: model\.name is 'swiftnet_rn34' there"):
        started(tmp_path / "other")
    saved_run(tmp_path / "static")
    with pytest.raises(UserError, match="has no policy"):
        started(tmp_path / "static", init_policy=True)
    for missing in ("nowhere", "@nowhere"):
        with pytest.raises(FileNotFoundError, match="expected a workdir, its checkpoints/STEP"):
            started(missing, tmp_path / "run")
    with pytest.raises(UserError, match="there is none"):
        started("@static")
    with pytest.raises(ConfigError, match="expected one of them to be None"):
        tiny.config(model={"init_from": "a", "pretrained": "resnet18"})
    with pytest.raises(ConfigError, match="say whose policy"):
        tiny.config(model={"init_policy": True})


ROWS = {
    "alone": {},
    "target 20": {"policy.target": 0.2, "after": "static"},
    "static": {"policy.name": "static", "model.pretrained": "resnet18"},
}


def test_rows_of_a_sweep_start_from_another_seed_by_seed():
    plan = make_plan("tiny", Sweep("Tiny", ROWS), tiny.config().to_dict(), (0, 1))
    assert list(plan.rows).index("static") < list(plan.rows).index("target 20")
    pairs = zip(plan.rows["static"], plan.rows["target 20"].values(), strict=True)
    for key, config in pairs:
        assert start_of(config) == key
        assert config.model.pretrained is None
        assert config.seed == plan.runs[key].seed
    assert all(start_of(config) is None for config in plan.rows["alone"].values())
    longer = {**ROWS, "static": {**ROWS["static"], "optim.steps": 5}}
    other = make_plan("tiny", Sweep("Tiny", longer), tiny.config().to_dict(), (0, 1))
    assert not other.rows["target 20"].keys() & plan.rows["target 20"].keys()
    for rows, text in (
        ({"a": {"after": "b"}}, "it comes after 'b'; expected one of a"),
        ({"a": {"after": "b"}, "b": {"after": "a"}}, "rows start from each other"),
    ):
        with pytest.raises(ConfigError, match=text):
            make_plan("tiny", Sweep("Tiny", rows), tiny.config().to_dict())


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_waits_for_what_it_starts_from(fails, tmp_path, monkeypatch):
    plan = make_plan("tiny", Sweep("Tiny", ROWS), tiny.config().to_dict())
    (first,), (then,), (alone,) = (plan.rows[r] for r in ("static", "target 20", "alone"))
    done = []

    def train(key, _, folder, data_dir):
        done.append(key)
        if fails and key == first:
            raise ValueError("no such thing")
        (folder / RECORD).write_text("{}")

    monkeypatch.setattr(sweeps, "train_and_record", train)
    backwards = dict(reversed(plan.runs.items()))
    errors = sweeps.run_all(backwards, tmp_path)
    assert done.index(first) < len(done)
    if fails:
        assert errors.keys() == {first, then}
        assert errors[then] == f"it starts from {first}, which isn't done"
        assert sorted(done) == sorted([first, alone])
    else:
        assert errors == {}
        assert done.index(first) < done.index(then)
        assert sorted(done) == sorted([first, then, alone])


def test_the_phases_of_a_configuration_are_runs_from_one_first_phase(tmp_path):
    spec = importlib.util.spec_from_file_location("phases", PHASES)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    fields = module.get_config()
    assert isinstance(fields, ml_collections.ConfigDict)
    assert read_system(fields, ("camvid",)).config.policy.name == "static"
    fields.phases.target40.optim.steps = 7  # As the command line sets it.
    plan = plan_of(fields.to_dict())
    assert list(plan.rows) == ["static", "target20", "target40", "target60"]
    static, folder = find_phase(plan, "static", tmp_path)
    key = folder.name
    assert folder == run_folder(tmp_path, key)
    assert (static.model.pretrained, static.policy.name) == ("efficientnet-lite1", "static")
    config, _ = find_phase(plan, "target40", tmp_path)
    assert (config.policy.name, config.policy.target, config.optim.steps) == ("reinforce", 0.4, 7)
    assert (config.model.init_from, config.model.pretrained) == (f"@{key}", None)
    with pytest.raises(UserError, match="give one of static, target20, target40, target60"):
        find_phase(plan, None, tmp_path)
    assert plan_of(tiny.config().to_dict()) is None


@pytest.mark.slow
def test_phases_that_were_stopped_end_as_unbroken_ones(tmp_path, monkeypatch):
    """With averages, and a policy that is calibrated: what is exported has the same bits."""
    fields = tiny.config(policy={"bucket_step": 1.0}, optim={"ema": 0.5}).to_dict()
    fields["phases"] = {
        "static": {"policy": {"name": "static"}},
        "blocks": {"after": "static", "policy": {"target": 0.25}},
    }
    plan = plan_of(fields)
    taken, step = [], TrainStep.__call__

    def interrupted(self, state, batch):
        taken.append(int(state.step))
        if len(taken) in (4, 10):  # One in each phase, behind a checkpoint.
            raise KeyboardInterrupt
        return step(self, state, batch)

    data = str(tmp_path / "data")
    cache = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))
    try:
        assert sweeps.sweep([plan], tmp_path / "unbroken", data) == {}
        monkeypatch.setattr(TrainStep, "__call__", interrupted)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                sweeps.sweep([plan], tmp_path / "broken", data)
        assert sweeps.sweep([plan], tmp_path / "broken", data) == {}
    finally:
        jax.config.update("jax_compilation_cache_dir", cache)
    assert taken == [0, 1, 2, 3, 2, 3, 0, 1, 2, 3, 2, 3]
    runs = ("unbroken", "broken")
    for name in plan.rows:
        exports = (find_phase(plan, name, tmp_path / run)[1] / "export" for run in runs)
        # Not the files' bytes: the order of their metadata is any.
        one, other = (load_file(export / "weights.safetensors") for export in exports)
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key]) for key in one)
    folder = find_phase(plan, "blocks", tmp_path / "broken")[1]
    record = json.loads((folder / RECORD).read_text())
    assert record["pretrained"]["step"] == 4
    assert record["pretrained"]["file"] == plan.rows["blocks"].popitem()[1].model.init_from


def test_a_shipped_model_is_a_start_by_its_name_unless_a_folder_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = find_start("camvid_efflite1", None)
    assert load_spec(shipped) == load_spec("camvid_efflite1")
    sb.save_model(tmp_path / "camvid_efflite1", fresh(), tiny.system(tiny.config()).spec)
    assert find_start("camvid_efflite1", None).samefile(tmp_path / "camvid_efflite1")
    with pytest.raises(FileNotFoundError, match="a shipped model, camvid_efflite1 or "):
        find_start("camvid_efflite2", None)
