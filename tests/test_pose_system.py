"""The system `dynconv_pose`: its loss, its evaluation, training, export, serving and prediction."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from segblocks_jax.errors import InputError
from segblocks_jax.experiments import commands
from segblocks_jax.interop import load_model, load_spec
from segblocks_jax.structured_config import ConfigError
from segblocks_jax.systems.classifier.prediction import Prediction
from segblocks_jax.systems.classifier.predictor import Predictor
from segblocks_jax.systems.dynconv_pose.engine import Engine
from segblocks_jax.systems.registry import system_of
from segblocks_jax.tasks.pose.heatmaps import targets
from segblocks_jax.tasks.pose.joints import COUNT
from segblocks_jax.training.sharding import AXIS

TINY = {
    "system": "dynconv_pose",
    "data": {"crop": (64, 64), "figures": (6, 5), "figure_size": (64, 48), "sigma": 1},
    "model": {"width": 1 / 24, "stacks": 1},
    "optim": {"batch_size": 4, "steps": 2, "learning_rate": 1e-3},
    "loop": {"eval_batch_size": 4, "eval_every": 2, "checkpoint_every": 2},
}


class Knowing(Predictor):
    """Instead of a network: gives the targets of the crops, in the order of evaluation."""

    def __init__(self, system):
        self.rows = []
        for item in map(system.eval_source.__getitem__, range(system.eval_size)):
            label = system.config.data.eval_crop()(item["image"], item["label"])[1]
            self.rows.append(
                targets(label[None, :, :2], label[None, :, 2], (64, 64), (16, 16), 1)[0]
            )

    def __call__(self, image):
        count = len(image)
        own = np.concatenate(self.rows[:count])
        self.rows = self.rows[count:]
        missing = np.zeros((count - len(own), 16, 16, COUNT), np.float32)
        return Prediction(
            np.concatenate([own, missing]), (), {"executed_share": np.full(count, 0.25, np.float32)}
        )


def test_the_right_heat_maps_score_fully(monkeypatch):
    """In maps of 16 pixels, a joint is found within 2 pixels of the crop, half the head's length."""
    system = system_of(TINY)
    knowing = Knowing(system)
    monkeypatch.setattr("segblocks_jax.systems.dynconv_pose.system.Predictor", lambda *_: knowing)
    modules = system.build()
    result = system.evaluate(modules)
    assert result.pckh.people == 5
    assert result.pckh.mean > 0.97
    assert result.loss == 0
    assert result.values == {"executed_share": 0.25}
    assert result.to_dict()["pckh"] == result.pckh.mean
    assert result.gmacs < system.gmacs(modules)


def test_crops_that_the_network_refuses():
    with pytest.raises(ConfigError, match=r"data.crop is \(96, 96\); dynconv_hourglass takes"):
        system_of(TINY | {"data": {"crop": (96, 96)}})


def test_pictures_are_in_rgb_whatever_the_network_sees():
    """A red image stays red in the first panel of the heat map, left of the computation."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[..., 0] = 200
    for bgr in (False, True):
        system = system_of(TINY | {"data": TINY["data"] | {"bgr": bgr}})
        assert system.cut(image)[32, 32].tolist() == ([0, 0, 200] if bgr else [200, 0, 0])
        np.testing.assert_array_equal(system.shown(system.cut(image))[32, 32], [200, 0, 0])
        drawn = system.draw(system.build())(image)
        red, _, blue = drawn["computation"][-40, 40]
        assert red > 150 > blue


@pytest.mark.slow
def test_training_export_serving_and_prediction(tmp_path):
    system = system_of(TINY)
    assert commands.train(system, tmp_path / "run") == 0
    scores = json.loads((tmp_path / "run" / "eval.json").read_text())
    found = json.dumps(scores)
    assert all(name in found for name in ("pckh", "pckh_strict", "executed_share", "gmacs"))
    assert commands.evaluate(system, tmp_path / "run", "latest", tmp_path / "again") == 0
    folder = tmp_path / "run" / "export"
    engine = Engine(load_model(folder), load_spec(folder))
    items = [system.eval_source[i] for i in range(3)]
    poses = engine([i["image"] for i in items], [i["label"] for i in items])
    assert poses.joints.shape == (3, COUNT, 2)
    assert poses.compiled
    assert not engine([i["image"] for i in items], [i["label"] for i in items]).compiled
    with pytest.raises(InputError, match="2 images and 1 people"):
        engine([i["image"] for i in items[:2]], [items[0]["label"]])
    (tmp_path / "in").mkdir()
    Image.fromarray(items[0]["image"]).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_bytes(b"damaged")
    modules = system.build()
    assert system.predict(lambda: modules, str(tmp_path / "in"), tmp_path / "out") == 1
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert np.shape(record["pictures"][0]["joints"]) == (COUNT, 2)
    for name in ("pose", "masks", "computation"):
        assert (tmp_path / "out" / f"a_{name}.png").is_file()


@pytest.mark.slow
def test_the_loss_is_of_all_stacks_and_the_budget():
    system = system_of(TINY)
    modules = system.build()
    image = jnp.asarray(np.random.default_rng(0).standard_normal((2, 64, 64, 3)), jnp.float32)
    label = np.random.default_rng(1).uniform(0, 64, (2, COUNT, 3)).astype(np.float32)
    label[..., 2] = 1
    keys = jax.random.split(jax.random.key(0), 2)

    class Fixed:
        """A network that gives the same maps for each stack, without masks."""

        @staticmethod
        def net(image, forward):
            return [jnp.full((2, 16, 16, COUNT), value) for value in (0.5, 0.25)]

    value, metrics = system.loss(Fixed, image, jnp.asarray(label), keys, jnp.float32(0))
    target, weight = targets(label[..., :2], label[..., 2], (64, 64), (16, 16), 1)
    kept = weight[:, None, None]
    expected = sum(0.5 * np.mean((kept * (level - target)) ** 2) for level in (0.5, 0.25))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert set(metrics) == {"loss_task", "accuracy"}
    masks = dataclasses.replace(system.config.masks, weight=3.0)
    heavier = type(system)(dataclasses.replace(system.config, masks=masks))
    modules.eval()

    def both(system):
        run = jax.vmap(
            lambda x: system.loss(modules, image, jnp.asarray(label), keys, x), axis_name=AXIS
        )
        return run(jnp.zeros(1, jnp.float32))

    (light, found), (heavy, _) = both(system), both(heavier)
    budget = found["loss_budget_network"] + found["loss_budget_blocks"]
    np.testing.assert_allclose(light, found["loss_task"] + 0.01 * budget, rtol=1e-5)
    np.testing.assert_allclose(heavy, found["loss_task"] + 3 * budget, rtol=1e-5)
