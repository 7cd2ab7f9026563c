"""The entry points end to end: train, resume, evaluate, predict, speed, and what stops them."""

import dataclasses
import io
import json
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import ml_collections
import numpy as np
import pytest
import take_steps
import tiny
from events import read_events
from flax import nnx
from PIL import Image
from tiny import batch, system

from segblocks_jax.data import NORMALIZATION, TABLES
from segblocks_jax.data.evaluation import EvalBatch
from segblocks_jax.experiments import commands
from segblocks_jax.experiments import run as run_module
from segblocks_jax.systems.segblocks import evaluation, log_pictures, policies, resolution_gain
from segblocks_jax.systems.segblocks import system as system_module
from segblocks_jax.systems.segblocks.build import create_system, open_source
from segblocks_jax.systems.segblocks.engine import Engine
from segblocks_jax.systems.segblocks.step import TrainStep
from segblocks_jax.tasks.segmentation.result import Segmentation
from segblocks_jax.training import loop
from segblocks_jax.training.logging import NonFiniteError, RunLog
from segblocks_jax.training.profiling import Profile
from segblocks_jax.training.workdir import load_modules

ROOT = pathlib.Path(__file__).resolve().parent.parent
QUICKSTART = ROOT / "experiments/configs/cityscapes/quickstart.py"


def config(policy_name="reinforce", policy=(), **changes):
    """One number of high blocks in training, so one program."""
    return tiny.config(policy_name, policy={"bucket_step": 1.0, **dict(policy)}, **changes)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def sources(scenes):
    return [open_source(config(), split, str(scenes)) for split in ("train", "val")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, sources):
    workdir = tmp_path_factory.mktemp("run")
    assert commands.train(system(config(), *sources), workdir, Profile(3, 2)) == 0
    return workdir


def test_training_writes_scores_with_everything_to_repeat_it(trained):
    result = json.loads((trained / "eval.json").read_text())
    metrics = result["metrics"]
    assert result["step"] == 4
    assert result["split"] == "street_scenes/val"
    assert metrics["images"] == 3
    assert 0 <= metrics["miou"] <= 1
    assert 0 <= metrics["high_fraction"] <= 1
    assert metrics["gmacs"] > 0
    assert result["config"]["policy"]["target"] == 0.5
    assert {"commit", "device", "jax"} <= result.keys()
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line["values"]] == [1, 2, 3, 4]
    waits = [line["values"].get("train/data_wait_share") for line in lines]
    assert all(0 <= wait <= 1 for wait in waits if wait is not None)
    assert sum(wait is not None for wait in waits) == 4
    logged = next(line["values"] for line in lines if line["step"] == 4)
    rate = logged["train/learning_rate"]
    assert logged["train/learning_rate_backbone"] == rate
    assert logged["train/learning_rate_policy"] == rate
    per_device = logged["train/images_per_second"] / jax.device_count()
    assert logged["train/images_per_second_per_device"] == per_device
    for value in ("advantage", "advantage_task", "advantage_sparsity", "probability"):
        assert {f"train/{value}_mean", f"train/{value}_std"} <= logged.keys()


def test_each_evaluation_shows_the_same_first_images(trained, sources):
    values = [
        value
        for event in read_events(trained)
        for value in event.summary.value
        if value.image.height
    ]
    assert [value.tag for value in values] == [f"eval/{sources[1][i]['name']}" for i in range(2)]
    with Image.open(io.BytesIO(values[0].image.encoded_image_string)) as picture:
        width, height = picture.size
        shown = np.asarray(picture)[height - 128 :, :192]
    assert width == 3 * 192 + 2 * 8  # Input, labels and grid.
    np.testing.assert_array_equal(shown, sources[1][0]["image"])


def test_a_profile_names_parts_and_block_operations(trained):
    (trace,) = trained.glob("plugins/profile/*/*.xplane.pb")
    content = trace.read_bytes()
    # Of nested names the derivative's marks are around the outermost: transpose(jvp(backbone))/layer2/...
    for name in (rb"backbone\)+/layer2/block_conv", rb"upsample2\)+/upsample2", rb"/optimizer/"):
        assert re.search(name, content)
    assert re.search(rb"jvp\(policy\)", content)


@pytest.mark.parametrize("text", ["5", "0:3", "3:x", "1:2:3"])
def test_a_profile_that_is_none(text):
    with pytest.raises(ValueError, match="expected FIRST:COUNT, such as 100:5"):
        Profile.parse(text)


def test_a_profile_of_steps_that_do_not_come(tmp_path, sources):
    with pytest.raises(ValueError, match=r"asks for steps 4 to 5; this run has 1 to 4"):
        loop.train(system(config(), *sources), tmp_path, Profile.parse("4:2"))


@pytest.mark.slow
def test_a_run_that_goes_on_behind_its_profile_goes_on(trained, sources, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    loop.train(system(config(), *sources), tmp_path / "run", Profile.parse("1:2"))
    assert "--profile: step 1 is past" in "".join(capsys.readouterr())


def test_padding_counts_in_operations_and_not_in_shares(sources, monkeypatch):
    class FirstBlockHigh(Engine):
        multiple = block_size = 64
        devices = ()

        def __init__(self):
            pass

        def __call__(self, images, **_):
            n, h, w, _ = images.shape
            mask = np.zeros((n, h // 64, w // 64), bool)
            mask[:, 0, 0] = True
            labels = np.zeros((n, h, w), np.uint8)
            return Segmentation(labels, None, mask, None, 1.0, False)

    sizes = [(64, 64), (128, 128)]
    records = [
        {"image": np.zeros((*s, 3), np.uint8), "label": np.zeros(s, np.uint8), "name": str(s)}
        for s in sizes
    ]
    source = dataclasses.replace(sources[1], records=records, sizes=sizes)
    monkeypatch.setattr(evaluation.Evaluator, "_gmacs", lambda *_: (1.0, 5.0))
    settings = config("all_high", loop={"eval_sizes": 1, "eval_batch_size": 1})
    result = evaluation.Evaluator(FirstBlockHigh(), source, settings)(nnx.Dict())
    assert sorted(result.shares) == [0.25, 1.0]
    assert result.gmacs == 2.0  # Both ran as four blocks, one of them high.


def test_only_a_learned_policys_scores_are_shown_as_probabilities(sources, monkeypatch, tmp_path):
    shown = []
    monkeypatch.setattr(
        log_pictures.pictures, "panels", lambda *given: shown.append(given[4]) or {"a": given[0]}
    )
    image, size = np.zeros((1, 64, 64, 3), np.uint8), (64, 64)
    batch = EvalBatch(image, np.zeros((1, *size), np.uint8), ("x",), (size,))
    scores = np.ones((1, 1, 1), np.float32)
    result = Segmentation(batch.label, None, scores > 0, scores, 1.0, False)
    with RunLog(tmp_path) as log:
        for policy in ("random", "reinforce"):
            shown_by = system(config(policy, loop={"eval_pictures": 1}), *sources)
            shown_by.show(log, 1)(batch, result)
    assert shown[0] is None
    np.testing.assert_array_equal(shown[1], scores[0])


def test_evaluation_of_a_checkpoint_repeats_the_last_of_training(trained, sources):
    before = json.loads((trained / "eval.json").read_text())["metrics"]
    elsewhere = config(data={"data_dir": "of this machine"})
    assert commands.evaluate(system(elsewhere, *sources), trained, "latest") == 0
    after = json.loads((trained / "eval.json").read_text())
    for name in ("miou", "gmacs", "high_fraction", "boundary_ratio"):
        assert after["metrics"][name] == before[name]
    assert after["config"]["data"]["data_dir"] is None


@pytest.mark.slow
def test_many_sizes_compile_a_bounded_number_of_programs(sources, rng):
    sizes = [(60 + 23 * i, 250 - 31 * i) for i in range(6)]
    records = [
        {
            "image": rng.integers(0, 256, (*size, 3), np.uint8),
            "label": rng.integers(0, 34, size, np.uint8),
            "name": str(i),
        }
        for i, size in enumerate(sizes)
    ]
    source = dataclasses.replace(sources[1], records=records, sizes=sizes)
    settings = config("static", loop={"eval_sizes": 2, "eval_batch_size": 2})
    modules = create_system(settings, 19)
    engine, shapes, seen = system(settings, source, source).engine(modules), set(), []

    def record(batch, result):
        shapes.add(batch.image.shape)
        for i, (height, width) in enumerate(batch.sizes):
            predicted = np.asarray(result.labels[i])[:height, :width]
            seen.append((source[int(batch.names[i])]["label"].ravel(), predicted.ravel()))

    result = evaluation.Evaluator(engine, source, settings)(modules, on_batch=record)
    assert result.images == 6
    assert len(shapes) == 2
    assert engine.compilations == 2
    labels, predicted = (np.concatenate(x) for x in zip(*seen, strict=True))
    # Cropped to the images' own sizes the labels give the same scores.
    valid = labels != 255
    assert result.scores.pixel_accuracy == (labels == predicted)[valid].mean()
    assert labels.size == sum(h * w for h, w in sizes)


def test_evaluations_of_a_run_share_one_engine_on_all_devices(sources, monkeypatch):
    made = []

    def engine(*arguments, **options):
        made.append(Engine(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(system_module, "Engine", engine)
    tried = system(config("static", loop={"eval_batch_size": 1}), *sources)
    first = tried.build()
    second = nnx.merge(nnx.graphdef(first), jax.tree.map(lambda x: -x, nnx.state(first)))
    results = [tried.evaluate(modules).scores.class_iou for modules in (first, second, first)]
    assert len(made) == 1
    assert made[0].devices == tuple(jax.local_devices()[:3])  # One for each batch.
    assert made[0].compilations == 3
    np.testing.assert_array_equal(results[0], results[2])
    assert (results[0] != results[1]).any()


def test_the_oracles_decisions_are_compiled_once():
    policy = policies.create("oracle", block_size=64, target=0.5)
    modules = nnx.Dict(net=take_steps.SmallNet(nnx.Rngs(0)), policy=policy)
    image, label = batch(2).values()
    resolution_gain._decide.clear_cache()
    for seed in (0, 1):
        masks = resolution_gain.OracleMasks(
            modules, NORMALIZATION["street_scenes"], tiny.config("oracle")
        )
        assert masks(image, label, seed).sum() == 4
    assert resolution_gain._decide._cache_size() == 1


def predict(trained, source, output, **options):
    source = None if source is None else str(source)
    return commands.predict(system(config()), trained, "latest", source, output, **options)


def test_prediction_passes_over_a_broken_file_and_says_so(trained, tmp_path, rng):
    images = tmp_path / "images"
    images.mkdir()
    picture = Image.fromarray(rng.integers(0, 255, (100, 150, 3)).astype(np.uint8))
    picture.save(images / "good.jpg")
    picture.save(images / "cut.png")
    (images / "cut.png").write_bytes((images / "cut.png").read_bytes()[:2000])
    output = tmp_path / "out"
    assert predict(trained, images, output) == 1
    assert sorted(p.name for p in output.iterdir()) == [
        "good_grid.png",
        "good_labels.png",
        "good_overlay.png",
        "good_result.json",
    ]
    for file in output.glob("*.png"):
        with Image.open(file) as written:
            assert written.size == (150, 100)
    with Image.open(output / "good_labels.png") as written:
        labels, palette = np.asarray(written), np.asarray(written.convert("RGB"))
    assert labels.max() < 19
    np.testing.assert_array_equal(palette, TABLES["street_scenes"].colors[labels])


def test_images_of_equal_name_do_not_overwrite_each_other(trained, tmp_path, rng):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        picture = Image.fromarray(rng.integers(0, 255, (64, 64, 3)).astype(np.uint8))
        picture.save(tmp_path / folder / "same.png")
    output = tmp_path / "out"
    assert predict(trained, tmp_path, output, batch_size=2, mode="budget=1") == 0
    written = {path.name for path in output.glob("*_labels.png")}
    assert written == {"a_same.png_labels.png", "b_same.png_labels.png"}


def test_predicting_nothing_is_an_error(trained, tmp_path):
    with pytest.raises(FileNotFoundError, match="no images"):
        predict(trained, tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="needs --input"):
        predict(trained, None, tmp_path / "out")
    with pytest.raises(ValueError, match="mode is 'fast'; expected"):
        predict(trained, QUICKSTART, tmp_path / "out", mode="fast")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_host_is_at_most_two_steps_ahead(sources, tmp_path, monkeypatch):
    running, ahead = [], []
    wait, take_step = jax.block_until_ready, TrainStep.__call__

    def step(self, state, batch):
        ahead.append(len(running))
        state, metrics = take_step(self, state, batch)
        running.append(metrics)
        return state, metrics

    def waited(values):
        running[:] = [metrics for metrics in running if metrics is not values]
        return wait(values)

    monkeypatch.setattr(TrainStep, "__call__", step)
    monkeypatch.setattr(jax, "block_until_ready", waited)
    loop.train(system(config("static", optim={"steps": 5}), *sources), tmp_path)
    assert ahead == [0, 1, 2, 2, 2]


def test_a_checkpoint_of_another_model_is_refused_and_kept(trained, sources):
    other = config(model={"width": 16})
    with pytest.raises(ValueError, match=r"model.width: 8 there, 16 now"):
        loop.train(system(other, *sources), trained)
    with pytest.raises(ValueError, match=r"missing|shape"):
        load_modules(system(other), trained)
    _, step, _ = load_modules(system(config()), trained)
    assert step == 4


@pytest.mark.slow
def test_a_non_finite_loss_stops_with_its_name_and_step(tmp_path, sources):
    wild = config(optim={"learning_rate": 1e30}, loop={"log_every": 50, "checkpoint_every": 1})
    with pytest.raises(NonFiniteError, match=r"step [1-4]\b") as caught:
        loop.train(system(wild, *sources), tmp_path)
    (number,) = re.findall(r"step (\d)\b", str(caught.value))
    saved = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert sorted(saved) == list(map(str, range(1, int(number))))[-len(saved) :]


@pytest.mark.slow
def test_speed_reports_times_beside_operations(tmp_path, capsys):
    dense = config("static", model={"input_scale": 0.5})  # Which plays no part.
    assert commands.speed(system(dense), tmp_path, (128, 128)) == 0
    report = json.loads((tmp_path / "speed.json").read_text())
    assert [row["high_fraction"] for row in report["blocks"]] == [1.0, 0.5, 0.25, 0.0]
    ratios = [row["operation_ratio"] for row in report["blocks"]]
    assert ratios[0] == 1
    assert ratios == sorted(ratios)
    assert ratios[-1] < 4
    for row in report["blocks"]:
        assert row["over_xla_dense"] == report["xla_dense"]["seconds"] / row["seconds"]
        assert row["over_dense"] == report["dense"]["seconds"] / row["seconds"]
        assert row["around_convolutions"] > 0
    assert "XLA dense" in capsys.readouterr().out


@pytest.mark.slow
def test_speed_of_a_network_that_has_no_such_blocks_is_that_of_the_dense_one(tmp_path, capsys):
    model = {"name": "lrnnet", "width": 8, "features": None, "dilations": (5,)}
    static = config("static", model=model, policy={"block_size": 32, "low_factor": 3})
    assert commands.speed(system(static), tmp_path, (64, 64)) == 0
    report = json.loads((tmp_path / "speed.json").read_text())
    assert report["blocks"] == []
    assert report["policy_seconds"] is None
    assert report["dense"]["seconds"] > 0
    assert "can't run in blocks of that size" in capsys.readouterr().out


def test_the_folder_of_the_command_line_reaches_every_mode(tmp_path):
    fields = ml_collections.ConfigDict(config(data={"data_dir": "a"}).to_dict())
    for folder in (str(tmp_path), None):
        given = run_module.read_system(fields, ("street_scenes",), data_dir=folder)
        assert given.config.data.data_dir == (folder or "a")


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "segblocks_jax.experiments.cityscapes", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.slow
def test_the_command_line_names_missing_data_and_bad_fields(tmp_path):
    workdir = tmp_path / "run"
    result = run(
        f"--config={QUICKSTART}",
        "--config.data.dataset=cityscapes",
        f"--data_dir={tmp_path / 'nowhere'}",
        f"--workdir={workdir}",
    )
    assert result.returncode == 2
    assert "nowhere" in result.stderr
    assert "Traceback" not in result.stderr
    result = run(f"--config={QUICKSTART}", "--config.policy.target=7.0", f"--workdir={workdir}")
    assert result.returncode == 2
    assert "policy.target is 7.0; expected a share from 0 to 1" in result.stderr
    result = run(f"--config={QUICKSTART}", "--config.policy.tagret=0.2", f"--workdir={workdir}")
    assert result.returncode == 2
    assert "tagret" in result.stderr
    assert "Traceback" not in result.stderr
    result = run(
        f"--config={QUICKSTART}",
        "--config.data.scenes=(1, 1)",
        "--mode=eval",
        f"--workdir={workdir}",
        f"--data_dir={tmp_path}",
    )
    assert result.returncode == 2
    assert "checkpoints" in result.stderr
    assert [path.name for path in workdir.glob("*")] in ([], ["compilation_cache"])
