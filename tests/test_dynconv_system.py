"""DynConv as a system: steps, evaluation, engine, saved models, pictures, schedules, configurations."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import segblocks_jax as sb
from segblocks_jax.nn import image_keys
from segblocks_jax.structured_config import ConfigError
from segblocks_jax.systems import dynconv
from segblocks_jax.systems.dynconv import pictures
from segblocks_jax.systems.dynconv.config import MaskConfig
from segblocks_jax.systems.dynconv.schedule import image_noise, temperature
from segblocks_jax.systems.registry import system_of
from segblocks_jax.training.state import create_optimizer, create_state

FIELDS = {
    "system": "dynconv",
    "name": "tiny",
    "data": {"shapes": (40, 10, 11), "holdout": 8},
    "model": {"name": "dynconv_resnet8", "width": 4},
    "masks": {"target": 0.5},
    "optim": {"batch_size": 8, "steps": 40, "learning_rate": 0.01},
    "loop": {"eval_every": 20, "checkpoint_every": 20, "eval_batch_size": 4},
}


def tiny(**changes):
    mapping = dict(FIELDS)
    for name, value in changes.items():
        mapping[name] = {**mapping.get(name, {}), **value}
    return system_of(mapping)


@pytest.mark.slow
def test_the_share_comes_to_the_target(tmp_path: pathlib.Path) -> None:
    """Steps without noise; then evaluation, engine, pictures and a saved model agree."""
    system = tiny(masks={"target": 0.3, "noise_until": 0.0}, optim={"steps": 60})
    modules = system.build()
    optimizer = create_optimizer(system.config.optim, {})
    graphdef, state = create_state(modules, optimizer, 0)
    step = system.train_step(graphdef, optimizer, print)
    state = step.place(state)
    batches = system.train_batches((0, 1))
    shares = []
    for _ in range(60):
        state, metrics = step(state, next(batches))
        shares.append(float(metrics["executed_share"]))
    batches.close()
    assert abs(np.mean(shares[-10:]) - 0.3) < 0.1 < abs(shares[0] - 0.3)
    assert "executed" in system.note(jax.tree.map(float, metrics))
    trained = nnx.merge(graphdef, *jax.device_get(state.served))
    trained.eval()
    result = system.evaluate(trained)
    values = result.to_dict()
    assert {"share_block1", "share_block3", "executed_share", "gmacs"} <= set(values)
    dense = system.gmacs(trained)
    cost, shapes = dynconv.costs(trained.net, (1, 32, 32, 3))
    left = (1 - values["executed_share"]) * cost.total(shapes) / 1e9
    assert values["gmacs"] == pytest.approx(dense - left)
    assert system.details(trained, result)["block_macs"] == cost.by_block(
        [np.ones(shape, bool) for shape in shapes]
    )
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    drawn = system.draw(trained)(image)
    assert set(drawn) == {"masks", "computation"}
    system.export(trained, tmp_path / "model")
    loaded = sb.load_model(tmp_path / "model")
    images = np.stack([image, image[::-1]])
    first = system.engine(trained)(images).probabilities
    second = system.engine(nnx.Dict(net=loaded))(images).probabilities
    np.testing.assert_allclose(first, second, rtol=1e-6)


def test_the_temperature_falls_at_milestones() -> None:
    config = MaskConfig(temperature=(5.0, 2.5, 1.0), temperature_milestones=(0.3, 0.6))
    got = [float(temperature(config, jnp.float32(p))) for p in (0.0, 0.29, 0.31, 0.59, 0.61, 0.99)]
    assert got == [5.0, 5.0, 2.5, 2.5, 1.0, 1.0]


def test_noise_is_an_images_own_and_ends() -> None:
    config, logits = MaskConfig(), jnp.asarray(np.linspace(-2, 2, 24).reshape(2, 3, 4), jnp.float32)
    keys = image_keys(jax.random.key(3), jnp.arange(2))
    noise = image_noise(keys, config, jnp.float32(0.5))
    alone = image_noise(keys[1:], config, jnp.float32(0.5))
    for pair, own in zip(noise(4, (2, 3, 4)), alone(4, (1, 3, 4)), strict=True):
        np.testing.assert_array_equal(pair[1:], own)
    u1, u2 = noise(4, (2, 3, 4))
    assert not np.array_equal(u1, u2)
    assert not np.array_equal(u1, noise(5, (2, 3, 4))[0])
    silent = image_noise(keys, config, jnp.float32(0.9))(0, (2, 3, 4))
    soft = dynconv.gumbel_sigmoid(logits, *silent, 1.0)
    np.testing.assert_array_equal(soft, logits >= 0)


def test_computation_per_pixel_against_loops(rng: np.random.Generator) -> None:
    cost = dynconv.Costs((30, 200), (10, 7), (1, 2))
    masks = [rng.random((1, 4, 6)) < 0.5, rng.random((1, 2, 3)) < 0.5]
    got = pictures.computation(masks, cost, (8, 12))
    total = 24 * (30 + 10) + 6 * 200 + 24 * 7
    assert got.mean() == pytest.approx(sum(cost.by_block(masks)) / total)
    dilated = [np.asarray(dynconv.dilate(m, s))[0] for m, s in zip(masks, (1, 2), strict=True)]
    y, x = 5, 7
    operations = (30 * masks[0][0, 2, 3] + 10 * dilated[0][2, 3]) * 24 / 96
    operations += 200 * masks[1][0, 1, 1] * 6 / 96 + 7 * dilated[1][2, 3] * 24 / 96
    assert got[y, x] == pytest.approx(operations / (total / 96))


def test_pictures_show_masks(rng: np.random.Generator) -> None:
    image = rng.integers(40, 256, (32, 48, 3), dtype=np.uint8)
    mask = np.zeros((1, 4, 6), bool)
    mask[0, 1, 2] = True
    shown = pictures.over_image(image, mask[0])
    np.testing.assert_array_equal(shown[8:16, 16:24], image[8:16, 16:24])
    assert (shown[:8] < image[:8]).all()
    heat = pictures.heat_map(image, np.linspace(0, 1, 48)[None].repeat(32, 0), alpha=1.0)
    assert heat[0, 0].tolist() == [68, 1, 84]
    assert heat[0, -1].tolist() == [253, 231, 37]
    with pytest.raises(ValueError, match="heat_map"):
        pictures.heat_map(image, np.zeros((3, 3)))
    sheets = pictures.draw(image, [mask] * 9, dynconv.Costs((1,) * 9, (1,) * 9, (1,) * 9))
    assert sheets["masks"].shape[0] >= 2 * 96


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"masks": {"target": 0.0}}, "masks.target is 0.0"),
        ({"masks": {"target": 1.1}}, "above 0, up to 1"),
        ({"masks": {"temperature": (1.0, 2.0)}}, "expected 1 values"),
        ({"masks": {"temperature": (0.0,)}}, "masks.temperature"),
        ({"masks": {"temperature": (1.0, 1.0, 1.0), "temperature_milestones": (0.6, 0.3)}}, "rising"),
        ({"model": {"name": "dynconv_hourglass"}}, "model.name"),
        ({"model": {"width": 2.5}}, "whole number"),
    ],
)  # fmt: skip
def test_bad_configurations(changes, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        tiny(**changes)
