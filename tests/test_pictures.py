"""Pictures, a pixel at a time."""

import inspect

import numpy as np
import pytest
from PIL import Image

from segblocks_jax.inference.result_files import save_result
from segblocks_jax.tasks.segmentation import pictures

COLORS = np.asarray([[10, 20, 30], [200, 100, 50], [0, 0, 255]], np.uint8)


@pytest.fixture
def label(rng: np.random.Generator) -> np.ndarray:
    label = rng.integers(0, 3, (6, 9)).astype(np.uint8)
    label[rng.random(label.shape) < 0.2] = 255
    return label


def test_colorize_looks_every_pixel_up(label):
    picture = pictures.colorize(label, COLORS)
    assert picture.dtype == np.uint8
    for index in np.ndindex(label.shape):
        expected = (0, 0, 0) if label[index] == 255 else COLORS[label[index]]
        np.testing.assert_array_equal(picture[index], expected)


@pytest.mark.parametrize("strange", [3, 254, -1])
def test_a_label_without_a_color_is_refused(strange, label):
    label = label.astype(np.int32)
    label[2, 3] = strange
    with pytest.raises(ValueError, match=f"label {strange} has no color, expected 0 to 2 or 255"):
        pictures.colorize(label, COLORS)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_overlay_mixes_and_leaves_ignored_pixels(alpha, label, rng):
    label = np.tile(label, (15, 1))
    image = rng.integers(0, 256, (90, 9, 3)).astype(np.uint8)
    before = image.copy()
    mixed = pictures.overlay(image, label, COLORS, alpha)
    for index in np.ndindex(label.shape):
        expected = image[index].astype(float)
        if label[index] != 255:
            expected = (1 - alpha) * expected + alpha * COLORS[label[index]]
        np.testing.assert_array_equal(mixed[index], np.rint(expected))
    np.testing.assert_array_equal(image, before)


def test_draw_grid_frames_every_block_in_its_color():
    image = np.full((96, 144, 3), 128, np.uint8)
    mask = np.asarray([[True, False, False], [False, True, True]])
    drawn = pictures.draw_grid(image, mask)
    for row, column in np.ndindex(2, 3):
        block = drawn[48 * row : 48 * row + 48, 48 * column : 48 * column + 48]
        color = pictures.HIGH_COLOR if mask[row, column] else pictures.LOW_COLOR
        border = 2 if mask[row, column] else 1
        inside = block[border:-border, border:-border]
        np.testing.assert_array_equal(inside, 128)
        frame = np.ones((48, 48), bool)
        frame[border:-border, border:-border] = False
        assert (block[frame] == color).all()
    np.testing.assert_array_equal(image, 128)


def test_probabilities_are_written_inside_their_own_block():
    image = np.zeros((128, 128, 3), np.uint8)
    mask = np.asarray([[True, False], [False, False]])
    plain = pictures.draw_grid(image, mask)
    written = pictures.draw_grid(image, mask, np.asarray([[0.91, 0.12], [0.5, 0.5]]))
    changed = (written != plain).any(axis=-1)
    blocks = changed.reshape(2, 64, 2, 64).transpose(0, 2, 1, 3)
    assert blocks.any(axis=(2, 3)).all()
    # The same number looks the same in every low block; another one does not.
    np.testing.assert_array_equal(blocks[1, 0], blocks[1, 1])
    assert (blocks[0, 1] != blocks[1, 1]).any()


def test_numbers_too_large_for_their_block_are_left_out():
    image = np.zeros((16, 16, 3), np.uint8)
    mask = np.asarray([[True, False], [False, True]])
    drawn = pictures.draw_grid(image, mask, np.full((2, 2), 0.5))
    np.testing.assert_array_equal(drawn, pictures.draw_grid(image, mask))


def test_side_by_side_places_pictures_of_any_size(rng):
    a = rng.integers(1, 256, (20, 30, 3)).astype(np.uint8)
    b = rng.integers(1, 256, (12, 50, 3)).astype(np.uint8)
    row = pictures.side_by_side([a, b], gap=4)
    assert row.shape == (20, 84, 3)
    np.testing.assert_array_equal(row[:, :30], a)
    np.testing.assert_array_equal(row[:12, 34:], b)
    assert not row[:, 30:34].any()
    assert not row[12:, 34:].any()


def test_titles_stand_above_their_pictures(rng):
    a = rng.integers(0, 256, (60, 80, 3)).astype(np.uint8)
    row = pictures.side_by_side([a, a], ["image", ""], gap=4)
    header = row.shape[0] - 60
    assert header > 0
    np.testing.assert_array_equal(row[header:, :80], a)
    assert row[:header, :80].any()
    assert not row[:header, 80:].any()
    long = pictures.side_by_side([a, a], ["a title much too long for a picture so small", ""])
    assert not long[:header, 80:].any()


def test_panels_are_as_large_as_the_labels(label, rng):
    label = label[:5, :8] % 3
    image = rng.integers(0, 256, (6, 9, 3)).astype(np.uint8)
    shown = pictures.panels(image, label, COLORS)
    assert list(shown) == ["input", "labels"]
    np.testing.assert_array_equal(shown["input"], image[:5, :8])
    np.testing.assert_array_equal(shown["labels"], COLORS[label])
    image = rng.integers(0, 256, (96, 192, 3)).astype(np.uint8)
    mask, scores = np.array([[True, False]]), np.array([[np.log(3), -800]], np.float32)
    shown = pictures.panels(image, np.zeros((90, 190), np.uint8), COLORS, mask, scores)
    expected = pictures.draw_grid(image, mask, np.array([[0.75, 0]]))[:90, :190]
    np.testing.assert_array_equal(shown["50% of the blocks high"], expected)


def test_a_saved_picture_is_read_back_unchanged(tmp_path, rng):
    image = rng.integers(0, 256, (5, 7, 3)).astype(np.uint8)
    path = tmp_path / "deep" / "a.png"
    save_result(path, image)
    with Image.open(path) as read:
        assert read.format == "PNG"
        np.testing.assert_array_equal(np.asarray(read), image)


def test_errors_say_what_to_do(label):
    image = np.zeros((6, 9, 3), np.uint8)
    with pytest.raises(ValueError, match=r"alpha is 2\.0, expected 0"):
        pictures.overlay(image, label, COLORS, 2.0)
    unchecked = inspect.unwrap(pictures.overlay)
    with pytest.raises(ValueError, match="the image is 6x9, the label map 3x9; resize"):
        unchecked(image, label[:3], COLORS)
    with pytest.raises(ValueError, match=r"dtype float64, expected .*undo the normalization"):
        unchecked(image * 1.0, label, COLORS)
    with pytest.raises(ValueError, match="6x9 pixels does not divide into a grid of 4x3"):
        pictures.draw_grid(image, np.ones((4, 3), bool))
    unchecked = inspect.unwrap(pictures.draw_grid)
    with pytest.raises(ValueError, match=r"shape \(3, 2\), the mask \(2, 3\)"):
        unchecked(image, np.ones((2, 3), bool), np.ones((3, 2)))
    with pytest.raises(ValueError, match="got no images"):
        pictures.side_by_side([])
    with pytest.raises(ValueError, match="got 2 titles for 1 images"):
        pictures.side_by_side([image], ["a", "b"])


def test_errors_are_orange_right_pixels_blue_and_ignored_ones_black(label, rng):
    predicted = rng.integers(0, 3, label.shape).astype(np.uint8)
    drawn = pictures.draw_errors(predicted, label)
    for index in np.ndindex(label.shape):
        right = (0, 114, 178) if predicted[index] == label[index] else pictures.HIGH_COLOR
        np.testing.assert_array_equal(drawn[index], (0, 0, 0) if label[index] == 255 else right)


def test_gains_tint_blocks_by_sign_and_size():
    image = np.full((96, 192, 3), 120, np.uint8)
    gain = np.array([[0.4, 0.2, 0.0, np.nan], [-0.4, -0.2, -0.1, 0.1]])
    drawn = pictures.draw_gain(image, gain).astype(int)
    corners = drawn[47::48, 47::48]  # No number is written there.
    red, blue = corners[..., 0], corners[..., 2]
    np.testing.assert_array_equal(np.sign(red - blue), np.sign(np.nan_to_num(gain)))
    mixed = np.rint(0.3 * 120 + 0.7 * np.array(pictures.HIGH_COLOR))
    np.testing.assert_array_equal(corners[0, 0], mixed)
    assert red[0, 0] > red[0, 1] > red[1, 3] > 120 > red[1, 2] > red[1, 1] > red[1, 0]
    np.testing.assert_array_equal(drawn[:48, 144:], image[:48, 144:])  # NaN: not even a number.
    assert (drawn[:48, 96:144] != 120).any()  # Zero: a number.
    with pytest.raises(ValueError, match="draw_gain: an image of 96x192 pixels does not divide"):
        pictures.draw_gain(image, np.zeros((5, 4)))
