"""Classification: loss, accuracies and augmentation against plain definitions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segblocks_jax.errors import InputError
from segblocks_jax.tasks.classification import labels
from segblocks_jax.tasks.classification.augmentation import (
    CenterCrop,
    PadCropFlip,
    RandomResizedCrop,
)
from segblocks_jax.tasks.classification.losses import cross_entropy
from segblocks_jax.tasks.classification.metrics import Accuracy, ranks


def picture(rng, height, width):
    """Every pixel another, so that it is known where each came from."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = 1 + np.arange(height)[:, None], 1 + np.arange(width)
    image[..., 2] = rng.integers(1, 256, (height, width))
    return image


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_cross_entropy_against_its_sum_over_classes(rng, smoothing):
    logits = rng.normal(0, 5, (7, 4)).astype(np.float32)
    label = rng.integers(0, 4, 7)
    expected = []
    for row, right in zip(logits.astype(np.float64), label, strict=True):
        shares = [math.exp(x) / sum(map(math.exp, row)) for x in row]
        target = [(1 - smoothing) * (i == right) + smoothing / 4 for i in range(4)]
        expected.append(-sum(t * math.log(p) for t, p in zip(target, shares, strict=True)))
    found = cross_entropy(jnp.asarray(logits), jnp.asarray(label), smoothing)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_gradient_is_softmax_minus_target(rng):
    logits, label = rng.normal(size=(5, 6)).astype(np.float32), rng.integers(0, 6, 5)
    found = jax.grad(lambda x: cross_entropy(x, jnp.asarray(label), 0.3).sum())(jnp.asarray(logits))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(found, shares - 0.7 * np.eye(6)[label] - 0.3 / 6, atol=1e-6)


def test_cross_entropy_of_bfloat16_is_computed_in_float32():
    logits = jnp.asarray([[0.0, 1000.0]], jnp.bfloat16)
    found = cross_entropy(logits, jnp.asarray([0]))
    assert found.dtype == jnp.float32
    assert float(found[0]) == 1000


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(0, 9))
def test_ranks_against_a_stable_sort(seed, classes, count):
    rng = np.random.default_rng(seed)
    logits = rng.integers(-2, 3, (count, classes)).astype(np.float32)  # Many are equal.
    label = rng.integers(0, classes, count)
    order = np.argsort(-logits, 1, kind="stable")
    expected = [int(np.flatnonzero(row == one)[0]) for row, one in zip(order, label, strict=True)]
    np.testing.assert_array_equal(ranks(logits, label), expected)


def test_a_label_whose_logit_is_nan_is_never_found():
    logits = np.array([[np.nan, 1.0], [np.nan, np.nan], [1.0, np.nan]], np.float32)
    np.testing.assert_array_equal(ranks(logits, np.array([0, 0, 0])), [2, 2, 0])


def test_accuracies():
    label = np.array([0, 0, 1, 1, 1])
    found = Accuracy.of(np.array([0, 4, 0, 5, 0]), label, 3)
    assert (found.top1, found.top5, found.images) == (3 / 5, 4 / 5, 5)
    np.testing.assert_array_equal(found.per_class, [1 / 2, 2 / 3, np.nan])
    assert found.to_dict() == {"top1": 3 / 5, "top5": 4 / 5, "images": 5}
    nothing = Accuracy.of(np.zeros(0, int), np.zeros(0, int), 2)
    assert nothing.to_dict() == {"top1": None, "top5": None, "images": 0}


def test_class_lists():
    for names, count in ((labels.CIFAR10, 10), (labels.CIFAR100, 100), (labels.SHAPES, 10)):
        assert len(set(names)) == len(names) == count
    assert list(labels.CIFAR100) == sorted(labels.CIFAR100)
    assert labels.CIFAR10[3] == "cat"


def test_pad_crop_flip_is_a_window_of_the_padded_image(rng):
    image, crop, seen = picture(rng, 9, 7), PadCropFlip((9, 7), padding=2), set()
    padded = np.zeros((13, 11, 3), np.uint8)
    padded[2:-2, 2:-2] = image
    for _ in range(300):
        found, label = crop(image, 3, rng)
        assert label == 3
        windows = {
            (top, left, flip): np.flip(padded[top : top + 9, left : left + 7], 1)
            if flip
            else padded[top : top + 9, left : left + 7]
            for top in range(5)
            for left in range(5)
            for flip in (False, True)
        }
        seen |= {place for place, window in windows.items() if np.array_equal(window, found)}
    assert len(seen) == 50  # All places, with and without a flip.


def test_pad_crop_of_a_smaller_image_says_what_helps(rng):
    with pytest.raises(InputError, match=r"image of 20 x 32 with 4 pixels around it is smaller"):
        PadCropFlip((32, 32))(picture(rng, 20, 32), 0, rng)


def test_random_resized_crop_cuts_regions_in_range(rng):
    crop = RandomResizedCrop((8, 8), scale=(0.2, 0.7), ratio=(0.5, 2.0))
    areas, logs = [], []
    for _ in range(400):
        top, left, height, width = crop.region((80, 80), rng)
        assert 0 <= top <= 80 - height
        assert 0 <= left <= 80 - width
        areas.append(height * width / 6400)
        logs.append(math.log(width / height))
    assert 0.19 < min(areas) < 0.25
    assert 0.6 < max(areas) < 0.72
    assert math.log(0.5) - 0.05 < min(logs) < -0.6
    assert 0.6 < max(logs) < math.log(2) + 0.05
    assert abs(np.mean(logs)) < 0.1


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((100, 10), (43, 0, 13, 10)), ((10, 100), (0, 43, 10, 13)), ((10, 10), (0, 0, 10, 10))],
)
def test_where_no_region_fits_it_is_the_largest_central_one(rng, shape, expected):
    crop = RandomResizedCrop((8, 8), scale=(1.0, 1.0))  # Of the image's area, but nearly square.
    assert crop.region(shape, rng) == expected


def test_random_resized_crop_is_the_region_resized_and_flipped(rng):
    image, crop = picture(rng, 50, 70), RandomResizedCrop((16, 24), flip=1.0)
    top, left, height, width = crop.region((50, 70), np.random.default_rng(5))
    found, _ = crop(image, 0, np.random.default_rng(5))
    region = Image.fromarray(image).crop((left, top, left + width, top + height))
    expected = np.asarray(region.resize((24, 16), Image.Resampling.BILINEAR))[:, ::-1]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("shape", "resized", "top", "left"),
    [((50, 70), (32, 44), 4, 10), ((70, 50), (44, 32), 10, 4), ((32, 32), (32, 32), 4, 4)],
)
def test_center_crop_of_the_resized_image(rng, shape, resized, top, left):
    image = picture(rng, *shape)
    found, _ = CenterCrop((24, 24), resize=32)(image)
    whole = Image.fromarray(image).resize(resized[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found, np.asarray(whole)[top : top + 24, left : left + 24])


def test_center_crop_fills_up_smaller_images(rng):
    image = picture(rng, 5, 30)
    found, _ = CenterCrop((8, 8))(image)
    np.testing.assert_array_equal(found[1:6], image[:, 11:19])
    assert not found[0].any()
    assert not found[6:].any()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: PadCropFlip((32, 0)), "crop must be two sizes >= 1"),
        (lambda: PadCropFlip((32, 32), padding=-1), "padding must be 0 or more, got -1"),
        (lambda: PadCropFlip((32, 32), flip=2.0), "flip must lie in 0..1, got 2.0"),
        (lambda: RandomResizedCrop((8, 8), scale=(0.5, 1.5)), "scale must be 0 < low <= high <= 1"),
        (lambda: RandomResizedCrop((8, 8), ratio=(2.0, 1.0)), "ratio must be 0 < low <= high"),
        (lambda: CenterCrop((8, 8), resize=0), "resize must be a number of pixels >= 1"),
    ],
)
def test_bad_settings_are_refused(make, text):
    with pytest.raises(InputError, match=text.replace(".", r"\.")):
        make()
