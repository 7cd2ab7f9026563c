"""Weights of classes: from labels by their definition, and the loss of a step with them by hand."""

import numpy as np
import pytest
import take_steps
from test_step import mesh
from tiny import CLASSES, batch, config

from segblocks_jax.data import NORMALIZATION, TABLES, normalize, open_dataset
from segblocks_jax.data.summary import class_frequencies
from segblocks_jax.errors import UserError
from segblocks_jax.systems.segblocks.step import TrainStep
from segblocks_jax.tasks.segmentation.class_weights import (
    class_weights,
    median_frequency,
    parse_weights,
)
from segblocks_jax.tasks.segmentation.losses import resize_logits
from segblocks_jax.training.state import create_optimizer

UNUSED = pytest.fail


def test_median_frequency_by_hand():
    # Means over the images that have the class: 50, 10, none, 10; their median is 10.
    got = median_frequency([100, 10, 0, 40], [2, 1, 0, 4])
    np.testing.assert_allclose(got, [0.2, 1, 1, 1])
    np.testing.assert_array_equal(median_frequency([0, 0], [0, 0]), [1, 1])


def test_median_frequency_is_that_of_the_labels(rng):
    labels = rng.choice(5, (7, 16, 16), p=[0.7, 0.2, 0.08, 0.019, 0.001])
    shares = []
    for k in range(5):
        having = labels[(labels == k).any((1, 2))]
        shares.append((having == k).sum() / having.size)
    expected = np.median(shares) / np.array(shares)
    pixels = [int((labels == k).sum()) for k in range(5)]
    images = [int((labels == k).any((1, 2)).sum()) for k in range(5)]
    np.testing.assert_allclose(median_frequency(pixels, images), expected)


@pytest.mark.slow
def test_the_usual_weights_of_camvid_are_like_those_of_its_labels_but_for_signs(shared):
    found = class_frequencies(open_dataset("camvid", shared / "data/camvid", "train"))
    got = median_frequency(found.pixels[:-1], found.images[:-1])
    usual = class_weights("camvid", TABLES["camvid"].classes, UNUSED)
    ratio = got / usual
    assert TABLES["camvid"].classes[int(np.abs(np.log(ratio)).argmax())] == "sign symbol"
    assert np.sum(np.abs(ratio - 1) < 0.25) == 10


def test_numbers_stand_for_themselves_and_others_are_refused():
    assert parse_weights("0.5,1,2") == (0.5, 1, 2)
    assert parse_weights("median_frequency") is None
    assert class_weights(None, ("a",), UNUSED) is None
    assert class_weights("median_frequency", ("a", "b"), lambda: ([4, 1], [1, 1])) == (0.625, 2.5)
    for text in ("", "rare", "1,-1", "1,nan", "1,inf", "0,0"):
        with pytest.raises(UserError, match="expected 'median_frequency' or 'camvid', or numbers"):
            parse_weights(text)
        with pytest.raises(UserError, match=r"optim\.class_weights"):
            config(optim={"class_weights": text})
    with pytest.raises(UserError, match=r"2 numbers; expected one for each of 3 classes: a, b, c"):
        class_weights("1,2", ("a", "b", "c"), UNUSED)


def test_a_step_has_the_loss_that_one_computes_by_hand(rng):
    weights = tuple(rng.uniform(0, 5, CLASSES).tolist())
    settings = config("static", optim={"class_weights": "camvid"})
    plain, state = take_steps.trainer(settings, mesh(2))
    optimizer = create_optimizer(settings.optim, {})
    normalization = NORMALIZATION["street_scenes"]
    step = TrainStep(
        plain._graphdef, optimizer, settings, normalization, mesh(2), class_weights=weights
    )
    data = batch()
    data["label"][:2, :90] = 255  # Of one device, so that its pixels weigh less.
    net = plain._system(state.params, state.stats, training=True).net
    logits = net(normalize(data["image"], *normalization))
    logits = np.asarray(resize_logits(logits, (128, 128)), np.float64)
    valid = data["label"] != 255
    labels, scores = data["label"][valid], logits[valid]
    losses = np.log(np.exp(scores).sum(-1)) - scores[np.arange(len(labels)), labels]
    weight = np.array(weights)[labels]
    _, metrics = step(state, data)
    np.testing.assert_allclose(
        metrics["loss_task"], (weight * losses).sum() / weight.sum(), rtol=1e-4
    )
