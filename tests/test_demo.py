"""The demo: what it measures, its page, and what it refuses."""

import dataclasses
import json

import golden
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import segblocks_jax as sb
from segblocks_jax.data import DATASETS, SceneSet, normalize, open_dataset
from segblocks_jax.experiments import demo
from segblocks_jax.systems.segblocks.resolution_gain import resolution_gain
from segblocks_jax.tasks.segmentation.metrics import confusion_matrix, scores
from segblocks_jax.training.logging import read_log

SIZE = (128, 256)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a small model for street scenes."""
    streets = DATASETS["street_scenes"]
    spec = sb.ModelSpec(
        "swiftnet_rn18",
        num_classes=19,
        width=8,
        policy=sb.PolicySpec(block_size=64, features=16),
        dataset="street_scenes",
        **streets.normalization._asdict(),
    )
    folder = tmp_path_factory.mktemp("model")
    sb.save_model(folder, golden.network(lambda: spec.build(nnx.Rngs(0))), spec)
    return folder


@pytest.fixture
def source(rng):
    """Images of noise with labels."""
    return [
        {
            "image": rng.integers(0, 256, (*SIZE, 3), np.uint8),
            "label": rng.choice(np.uint8([0, 1, 5, 18, 255]), SIZE),
        }
        for _ in range(3)
    ]


def test_rows_score_and_count_what_they_ran(model, source, monkeypatch):
    monkeypatch.setattr(demo, "SIZE", SIZE)
    system, spec = sb.load_model(model), sb.load_spec(model)
    static = sb.Engine(system["net"], dataclasses.replace(spec, policy=None))
    blocks = sb.Engine(system, spec)
    rows = [demo.Row("static", static), demo.Row("quarter", blocks, "share=0.25")]
    dense, quarter = demo.measure(rows, source, rounds=2)
    for point, row in ((dense, rows[0]), (quarter, rows[1])):
        matrix = sum(
            np.asarray(confusion_matrix(item["label"], row(item["image"]).labels[0], 19))
            for item in source
        )
        assert point.miou == pytest.approx(scores(matrix).mean_iou)
        assert point.seconds > 0
    assert (dense.share, quarter.share) == (None, 0.25)
    net = sb.count_macs(system["net"], (1, *SIZE, 3)).total / 1e9
    assert dense.gmacs == pytest.approx(net)
    assert quarter.gmacs == pytest.approx(blocks.gmacs(SIZE, 0.25))
    assert quarter.gmacs < dense.gmacs


def test_the_gain_of_blocks_is_that_of_training(model, source):
    system, spec = sb.load_model(model), sb.load_spec(model)
    system.eval()
    item = source[0]
    config = demo.training_config(spec, 0.2, 1)
    image = normalize(jnp.asarray(item["image"][None]), spec.mean, spec.std)
    expected = resolution_gain(system, image, jnp.asarray(item["label"][None]), config)
    found = demo.gain(sb.Engine(system, spec), item)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected[0], atol=1e-4)


def test_the_training_is_of_the_models_network_at_another_target(model):
    spec = sb.load_spec(model)
    config = demo.training_config(spec, 0.2, 7)
    assert (config.optim.steps, config.policy.target) == (7, 0.2)
    assert (config.model.width, config.policy.block_size, config.policy.features) == (8, 64, 16)
    assert config.optim.freeze_network


def test_the_training_begins_with_the_threshold_of_its_target(model, tmp_path):
    """So many of the training images' blocks run high, though none did before."""
    system, spec = sb.load_model(model), sb.load_spec(model)
    system.policy.move_threshold(5.0)
    chosen = SceneSet(train=4, val=2, height=SIZE[0], width=SIZE[1])
    sources = tuple(
        open_dataset("street_scenes", tmp_path, split, scenes=chosen) for split in ("train", "val")
    )
    row = demo.Row("quarter", sb.Engine(system, spec), "share=0.25")
    training = demo.Training(demo.training_config(spec, 0.25, 1), sources, system, row)

    def share(policy):
        policy.eval()
        images = np.stack([sources[0][number]["image"] for number in range(4)])
        return float(policy(normalize(jnp.asarray(images), spec.mean, spec.std)).action.mean())

    assert share(training.build().policy) == pytest.approx(0.25, abs=1 / 16)
    assert share(system.policy) == 0


def test_the_default_model_ships():
    spec = sb.load_spec(demo.MODEL)
    assert demo.MODEL in sb.shipped_models()
    assert (spec.dataset, spec.policy.name) == ("street_scenes", "reinforce")


@pytest.mark.parametrize("kind", ["missing", "static", "other data"])
def test_other_models_are_refused(model, tmp_path, capsys, kind):
    spec, folder = sb.load_spec(model), tmp_path / "model"
    changes = {"static": {"policy": None}, "other data": {"dataset": "camvid"}}
    if kind != "missing":
        changed = dataclasses.replace(spec, **changes[kind])
        sb.save_model(folder, golden.network(lambda: changed.build(nnx.Rngs(0))), changed)
    output = tmp_path / "out"
    assert demo.main(["--model", str(folder), "--output", str(output)]) == 2
    assert str(folder) in capsys.readouterr().err
    assert not (output / "page").exists()


@pytest.mark.slow
def test_the_demo_writes_a_page_and_a_curve(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "SIZE", SIZE)
    argv = ["--model", str(model), "--output", str(tmp_path), "--steps=10", "--scenes=2"]
    assert demo.main(argv) == 0
    text = capsys.readouterr().out
    page = (tmp_path / "page" / "index.html").read_text()
    for name in ("static", "SegBlocks, 60%", "SegBlocks, 20%", "after 10 more steps"):
        assert name in text
        assert name in page
    assert page.count("ground truth") >= 2
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [f"{row['miou']:.1%}" in page for row in rows] == [True] * 5
    (workdir,) = tmp_path.glob("training_*_0.2_10")
    steps = [line["step"] for line in read_log(workdir) if "train/loss" in line["values"]]
    assert steps == [5, 10]
    result = json.loads((workdir / "eval_10.json").read_text())
    assert result["metrics"]["high_fraction"] == pytest.approx(0.25, abs=0.13)  # Of eight blocks.
