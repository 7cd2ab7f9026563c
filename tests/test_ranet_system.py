"""RANet as a system: it trains, its thresholds come from held-out images, checkpoints and exports keep them."""

import dataclasses
import json
import pathlib
import re

import numpy as np
import pytest

import segblocks_jax as sb
from segblocks_jax.analysis.early_exits import Figures, examples, measure, write_report
from segblocks_jax.errors import InputError
from segblocks_jax.structured_config import ConfigError
from segblocks_jax.systems.ranet.config import ExperimentConfig
from segblocks_jax.systems.ranet.engine import Engine
from segblocks_jax.systems.ranet.fits import QS, fit_all
from segblocks_jax.systems.ranet.system import RANetSystem, probabilities
from segblocks_jax.systems.registry import system_of
from segblocks_jax.training import loop
from segblocks_jax.training.workdir import load_modules

FIELDS = {
    "name": "tiny",
    "data": {
        "dataset": "shapes",
        "shapes": (96, 8, 24),
        "crop": (16, 16),
        "shape_size": (16, 16),
        "holdout": 32,
    },
    "model": {
        "name": "ranet_cifar_lg",
        "scales": (1, 2),
        "growth_factors": (1, 1),
        "bottleneck_factors": (1, 1),
        "channels": 4,
        "growth": 4,
        "blocks": 1,
        "block_step": 1,
        "step_mode": "even",
    },
    "optim": {"batch_size": 8, "steps": 4, "learning_rate": 0.05},
    "loop": {"eval_every": 4, "checkpoint_every": 4, "log_every": 2, "eval_batch_size": 8},
}


def config(**changes: dict) -> ExperimentConfig:
    return ExperimentConfig.from_mapping(
        {k: {**v, **changes.get(k, {})} if isinstance(v, dict) else v for k, v in FIELDS.items()}
    )


@pytest.mark.slow
def test_a_run_keeps_its_thresholds(tmp_path: pathlib.Path) -> None:
    system = system_of({"system": "ranet", **FIELDS})
    assert isinstance(system, RANetSystem)
    result = loop.train(system, tmp_path)
    values = result.to_dict()
    assert {
        "top1",
        "top1_exit1",
        "top1_exit2",
        "early_top1",
        "early_gmacs",
        "share_exit1",
    } <= values.keys()
    assert 0 < values["early_gmacs"] <= values["gmacs"] == pytest.approx(system.macs[-1] / 1e9)
    assert values["share_exit1"] + values["share_exit2"] == pytest.approx(1)
    # Of the held-out images, by another way.
    modules, _, _ = load_modules(RANetSystem(config()), tmp_path)
    outputs = system.outputs(modules, system.config.data.open("holdout"), keep_logits=True)
    assert len(outputs.labels) == 32
    expected = fit_all(probabilities(outputs), outputs.labels, system.macs)
    spec = sb.load_spec(tmp_path / "export")
    assert spec.fits == expected
    assert [fit.q for fit in spec.fits] == list(QS)
    # A checkpoint keeps them: nothing is fitted again.
    again = RANetSystem(config())
    modules, _, _ = load_modules(again, tmp_path)
    assert again.spec == spec
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RANetSystem, "outputs", None)
        load_modules(RANetSystem(config()), tmp_path)
    for data, message in (
        ({"holdout": 40}, "data.holdout is 40, but 32 in the run"),
        ({"crop": (24, 24)}, r"data.crop is \(24, 24\), but \(16, 16\) in the run"),
    ):
        with pytest.raises(InputError, match=message):
            load_modules(RANetSystem(config(data=data)), tmp_path)
    served = Engine.load(tmp_path / "export", max_count=4)
    source = system.eval_source
    images = np.stack([source[i]["image"] for i in range(len(source))])
    answers = served(images)
    exits = np.bincount(answers.exits, minlength=2) / len(images)
    assert values["share_exit1"] == pytest.approx(exits[0], abs=1 / len(images))
    described = json.loads((tmp_path / "eval_4.json").read_text())
    assert described["calibration"]["q0.5/accuracy"] == expected[9].accuracy


def test_thresholds_need_held_out_images() -> None:
    system = RANetSystem(config(data={"holdout": 0}))
    assert system.calibrate(None) is None
    assert system.spec.fits == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"scales": (1, 1)}}, "expected the first sub-network to be the smallest"),
        ({"model": {"growth": 2}}, "leaves none to the sub-network below"),
        ({"data": {"crop": (8, 8)}}, "data.crop: RANet: images are 8 x 8 pixels"),
        ({"model": {"name": "resnet18"}}, "model.name is 'resnet18'; expected one of"),
    ],
)
def test_configurations_that_can_not_run(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**changes)


def test_predict_takes_an_engine_mode(tmp_path: pathlib.Path) -> None:
    system = RANetSystem(config())
    modules = system.build()
    assert system.engine(modules).settings.mode.kind == "all"
    assert system.engine(modules, mode="exit=1").settings.mode.value == 1
    assert dataclasses.asdict(system.spec)["options"]["channels"] == 4


@pytest.mark.slow
def test_the_report_of_a_run(tmp_path: pathlib.Path) -> None:
    loop.train(RANetSystem(config()), tmp_path / "run")
    page = write_report(tmp_path / "run")
    text = page.read_text()
    for part in ("exit 2", "Where images leave", "disk, easy", "checker, hard", "q = 1.95"):
        assert part in text
    assert not re.search(r'(src|href)="http', text)
    written = json.loads((tmp_path / "run" / "early_exits.json").read_text())
    assert len(written["budgeted"]) == 39
    assert written["step"] == 4
    assert written["macs"] == RANetSystem(config()).macs.tolist()
    system = RANetSystem(config())
    modules, _, _ = load_modules(system, tmp_path / "run")
    found = measure(system, modules)
    assert found.anytime == pytest.approx(written["anytime"])
    for row in written["budgeted"]:
        low, high = sorted(found.anytime)
        assert low <= row["mixed"] <= high
        assert sum(row["shares"]) == pytest.approx(1)
    easy, hard = (examples(found, 3, hard=hard) for hard in (False, True))
    assert easy
    assert found.taken[easy[0]] <= found.taken[hard[0]]
    assert set(found.labels[easy + hard]) == {3}


def test_easy_images_left_early_and_surely() -> None:
    taken, confidence = np.array([1, 0, 0, 1, 0]), np.array([0.9, 0.5, 0.8, 0.2, 0.99])
    labels = np.array([0, 0, 0, 0, 1])
    found = Figures(np.array([1, 2]), [50.0, 60.0], [], taken, confidence, labels)
    assert examples(found, 0, hard=False) == [2, 1, 0, 3]
    assert examples(found, 0, hard=True) == [3, 0, 1, 2]
    assert examples(found, 2, hard=True) == []
