"""Augmentation: geometry against cut-outs, jitter against its definition, determinism."""

import fractions
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segblocks_jax.tasks.segmentation.augmentation import Augmentation

FILL = (9, 120, 240)
PLAIN = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}


def coordinates(height, width):
    """An image whose pixels say where they were, and a label that agrees with it."""
    rows, columns = np.indices((height, width)).astype(np.uint8)
    image = np.stack([rows, columns, np.full_like(rows, 7)], -1)
    return image, (rows * 3 + columns) % 19


def test_unit_scale_cuts_out_a_window(rng):
    image, label = coordinates(60, 90)
    augment = Augmentation((24, 32), scale=(1.0, 1.0), flip=0.0, **PLAIN)
    corners = set()
    for _ in range(40):
        crop, target = augment(image, label, rng, FILL)
        top, left = crop[0, 0, :2].tolist()
        np.testing.assert_array_equal(crop, image[top : top + 24, left : left + 32])
        np.testing.assert_array_equal(target, label[top : top + 24, left : left + 32])
        corners.add((top, left))
    assert len(corners) > 20


def test_flip_mirrors_image_and_label(rng):
    image, label = coordinates(16, 20)
    augment = Augmentation((16, 20), scale=(1.0, 1.0), flip=1.0, **PLAIN)
    crop, target = augment(image, label, rng, FILL)
    np.testing.assert_array_equal(crop, image[:, ::-1])
    np.testing.assert_array_equal(target, label[:, ::-1])


def test_flips_as_often_as_asked():
    image, label = coordinates(8, 8)
    augment = Augmentation((8, 8), scale=(1.0, 1.0), flip=0.25, **PLAIN)
    rng = np.random.default_rng(5)
    flips = sum(augment(image, label, rng, FILL)[0][0, 0, 1] != 0 for _ in range(400))
    assert 70 <= flips <= 130


@pytest.mark.parametrize("size", [(20, 30), (20, 90), (60, 30)])
def test_overhang_is_filled_and_ignored(rng, size):
    image, label = coordinates(*size)
    augment = Augmentation((48, 64), scale=(1.0, 1.0), flip=0.0, **PLAIN)
    for _ in range(10):
        crop, target = augment(image, label, rng, FILL)
        outside = (crop == FILL).all(-1)
        np.testing.assert_array_equal(outside, target == 255)
        inside = min(size[0], 48) * min(size[1], 64)
        assert (~outside).sum() == inside
        rows, columns = crop[~outside][:, :2].T.astype(int)
        np.testing.assert_array_equal(target[~outside], (rows * 3 + columns) % 19)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_scaled_regions_keep_image_and_label_together(rng, scale):
    image, _ = coordinates(80, 120)
    halves = (np.arange(120) >= 60).astype(np.uint8)
    label = np.broadcast_to(halves, (80, 120)).copy()
    image[..., 2] = 200 * label
    augment = Augmentation((32, 32), scale=(scale, scale), flip=0.0, **PLAIN)
    extents = []
    for _ in range(30):
        crop, target = augment(image, label, rng, FILL)
        assert crop.shape == (32, 32, 3)
        assert set(np.unique(target)) <= {0, 1}
        disagree = (crop[..., 2] > 100) != (target == 1)
        assert disagree.sum() <= 32
        extents.append(int(crop[31, 0, 0]) - int(crop[0, 0, 0]))
    assert np.median(extents) == pytest.approx(31 * scale, abs=2)


@settings(max_examples=150, deadline=None)
@given(
    image=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    crop=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    scale=st.floats(0.2, 5.0),
    seed=st.integers(0, 1000),
)
def test_any_size_at_any_scale(image, crop, scale, seed):
    """A constant image stays constant, and exactly what lies wholly inside it is not filled."""
    picture = np.full((*image, 3), (200, 100, 50), np.uint8)
    augment = Augmentation(crop, scale=(scale, scale), flip=0.0, **PLAIN)
    got, label = augment(picture, np.full(image, 4, np.uint8), np.random.default_rng(seed), FILL)
    left, top, right, bottom = augment._region(image, np.random.default_rng(seed))
    expected = []
    for have, want, begin, end in zip(image, crop, (top, left), (bottom, right), strict=True):
        edges = [begin + fractions.Fraction(n * (end - begin), want) for n in range(want + 1)]
        expected.append([a >= 0 and b <= have for a, b in itertools.pairwise(edges)])
    inside = np.outer(*expected)
    np.testing.assert_array_equal(label, np.where(inside, 4, 255))
    np.testing.assert_array_equal(got[inside], np.broadcast_to(picture[0, 0], got[inside].shape))
    np.testing.assert_array_equal(got[~inside], np.broadcast_to(FILL, got[~inside].shape))


def test_resizing_is_pillows_bicubic(rng):
    """A crop within the image equals the recipe: cut out, then resize."""
    image = rng.integers(0, 256, (90, 120, 3), np.uint8)
    augment = Augmentation((32, 40), scale=(1.7, 1.7), flip=0.0, **PLAIN)
    got, _ = augment(image, image[..., 0].copy(), np.random.default_rng(2), FILL)
    region = augment._region(image.shape[:2], np.random.default_rng(2))
    resized = Image.fromarray(image).crop(region).resize((40, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(got, np.asarray(resized))


def test_the_generator_decides_everything():
    image, label = coordinates(50, 70)
    augment = Augmentation((24, 24))
    first = augment(image, label, np.random.default_rng(3), FILL)
    again = augment(image, label, np.random.default_rng(3), FILL)
    other = augment(image, label, np.random.default_rng(4), FILL)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])


def jittered(name, strength, image, draws=60):
    augment = Augmentation(image.shape[:2], (1.0, 1.0), flip=0.0, **PLAIN | {name: strength})
    label, rng = np.zeros(image.shape[:2], np.uint8), np.random.default_rng(1)
    return np.stack([augment(image, label, rng, FILL)[0] for _ in range(draws)]).astype(float)


def test_brightness_scales(rng):
    image = np.full((4, 4, 3), 100, np.uint8)
    values = jittered("brightness", 0.3, image)[:, 0, 0, 0]
    assert 69 <= values.min() < 80
    assert 120 < values.max() <= 130


def test_contrast_keeps_the_mean_and_saturation_keeps_gray(rng):
    gray = np.zeros((4, 4, 3), np.uint8)
    gray[:, :2], gray[:, 2:] = 60, 140
    contrast = jittered("contrast", 0.3, gray)
    np.testing.assert_allclose(contrast.mean((1, 2, 3)), 100, atol=1.5)
    assert np.ptp(contrast[:, 0, 0, 0]) > 15
    np.testing.assert_array_equal(jittered("saturation", 0.3, gray), np.stack([gray] * 60))


def test_hue_turns_colors_and_keeps_gray_and_value():
    red = np.full((2, 2, 3), (200, 50, 50), np.uint8)
    turned = jittered("hue", 0.1, red)[:, 0, 0]
    np.testing.assert_allclose(turned.max(-1), 200, atol=2)
    assert turned[:, 1].max() > 100  # toward yellow
    assert turned[:, 2].max() > 100  # and toward magenta
    # A turn of 0.1 is 36 degrees: green reaches at most 50 + 0.6 * 150.
    assert turned[:, 1:].max() <= 142
    gray = np.full((2, 2, 3), 90, np.uint8)
    np.testing.assert_array_equal(jittered("hue", 0.1, gray), np.stack([gray] * 60))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": (0, 4)}, "crop must be two sizes >= 1"),
        ({"crop": (4, 4), "scale": (2.0, 0.5)}, "scale must be 0 < low <= high"),
        ({"crop": (4, 4), "hue": 0.6}, r"hue must lie in 0\.\.0\.5"),
        ({"crop": (4, 4), "flip": 1.5}, r"flip must lie in 0\.\.1"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**settings)
