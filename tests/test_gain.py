"""Whether resolution matters to a network: the gain of its blocks by running high."""

import dataclasses
from unittest import mock

import jax
import numpy as np
import pytest
import take_steps
import tiny
from flax import nnx

from segblocks_jax.blocks import combine, split
from segblocks_jax.data import NORMALIZATION, TABLES, SegmentationSource, normalize
from segblocks_jax.systems.segblocks import system as system_module
from segblocks_jax.systems.segblocks.evaluation import Evaluation
from segblocks_jax.systems.segblocks.resolution_gain import mean_gain
from segblocks_jax.tasks.segmentation import metrics

STREETS = NORMALIZATION["street_scenes"]
TRAIN_IDS = dataclasses.replace(TABLES["street_scenes"], to_train=np.arange(256, dtype=np.uint8))


def pictures(rng):
    """Of two sizes, the second of which is padded: noise with labels that follow its brightness."""
    items = []
    for number, (h, w) in enumerate([(128, 192), (100, 150), (128, 192)]):
        item = {k: v[0, :h] for k, v in tiny.batch(1, seed=number).items()}
        item = {k: np.concatenate([v, v[:, ::-1]], 1)[:, :w] for k, v in item.items()}
        item["label"][rng.random((h, w)) < 0.2] = 255
        item["label"][:64, :64] = 255  # A block without labels.
        items.append({**item, "name": str(number)})
    sizes = [item["label"].shape for item in items]
    return SegmentationSource("street_scenes", "val", TRAIN_IDS, STREETS, items, sizes, [])


def block_losses(net, item, high):
    """The mean losses of the labeled blocks of 64, all of them high or all low."""
    h, w = item["label"].shape
    height, width = -(-h // 64) * 64, -(-w // 64) * 64
    image = np.full((1, height, width, 3), STREETS.fill, np.uint8)
    image[:, :h, :w] = item["image"]
    image = normalize(image, *STREETS)
    mask = np.full((1, height // 64, width // 64), high)
    scores = combine(net(split(image, mask, num_high=mask.size * high)))
    scores = np.asarray(jax.image.resize(scores, (1, height, width, 19), "bilinear"), np.float64)
    losses, means = np.full((height, width), np.nan), []
    for y, x in np.argwhere(item["label"] != 255):
        own = scores[0, y, x]
        losses[y, x] = np.log(np.exp(own).sum()) - own[item["label"][y, x]]
    for y, x in np.ndindex(mask.shape[1:]):
        own = losses[64 * y : 64 * (y + 1), 64 * x : 64 * (x + 1)]
        means += [own[~np.isnan(own)].mean()] if not np.isnan(own).all() else []
    return np.array(means)


@pytest.fixture(scope="module")
def net():
    """With random weights, which some blocks of the second picture are better without."""
    net = take_steps.SmallNet(nnx.Rngs(4))
    net.logits.kernel[...] = 0.3 * net.logits.kernel[...]
    net.eval()
    return net


@pytest.mark.parametrize(("images", "taken"), [(9, (0, 1, 2)), (1, (1,))])
def test_the_mean_gain_is_that_of_two_maps_of_losses(net, images, taken, rng):
    source = pictures(rng)
    gains = np.concatenate(
        [
            block_losses(net, source[i], high=False) - block_losses(net, source[i], high=True)
            for i in taken
        ]
    )
    config = tiny.config("static", loop={"gain_images": images})
    got = mean_gain(nnx.Dict(net=net), source, config)
    assert len(gains) == 5 * len(taken)
    assert 0 < (gains > 0).sum() < len(gains)
    assert got["resolution_gain"] == pytest.approx(gains.mean(), rel=1e-4)
    assert got["resolution_gain_share"] == (gains > 0).mean()


def test_an_evaluation_tells_the_gain_where_it_is_wanted(monkeypatch):
    """With a network that sees whole images, and as the engine decides; not at a share that one asks for."""
    scores = metrics.scores(np.eye(19, dtype=np.int64))
    plain = Evaluation(scores, 1.0, None, None, None, 3, TABLES["street_scenes"].classes)
    gain = {"resolution_gain": 0.25, "resolution_gain_share": 0.75}
    monkeypatch.setattr(system_module, "mean_gain", lambda *arguments: gain)
    modules = nnx.Dict()

    def evaluate(images, mode=None, **model):
        system = tiny.system(tiny.config("static", loop={"gain_images": images}, model=model))
        system._evaluator = mock.Mock(return_value=plain)
        return system.evaluate(modules, mode=mode)

    found = evaluate(1)
    assert found.to_dict() == plain.to_dict() | gain
    assert "by running high: 0.2500 nats; above 0 for 75.0%" in str(found)
    for other in (evaluate(0), evaluate(1, mode="share=0.5"), evaluate(1, input_scale=0.5)):
        assert other is plain
