"""Scores against numpy loops and the reference's numbers."""

import inspect
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from segblocks_jax.tasks.segmentation import metrics


@pytest.fixture(scope="module")
def golden(shared: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(shared / "golden" / "metrics.npz") as file:
        return dict(file)


def confusion_loop(labels: np.ndarray, predictions: np.ndarray, k: int) -> np.ndarray:
    matrix = np.zeros((k, k), np.int64)
    for label, prediction in zip(labels.reshape(-1), predictions.reshape(-1), strict=True):
        if label != 255:
            matrix[label, prediction] += 1
    return matrix


def test_confusion_and_scores_match_reference_over_a_stream(golden):
    total = metrics.ConfusionTotal(19)
    for step in range(3):
        state = f"step{step}"
        total.update(golden[f"{state}/labels"], golden[f"{state}/preds"])
        np.testing.assert_array_equal(total.counts, golden[f"{state}/confusion"])
        got = total.scores()
        for value, name in [
            (got.pixel_accuracy, "overall_acc"),
            (got.mean_accuracy, "mean_acc"),
            (got.freq_weighted_accuracy, "freqw_acc"),
            (got.mean_iou, "mean_iou"),
        ]:
            assert value == pytest.approx(golden[f"{state}/{name}"].item(), rel=1e-12), name
        np.testing.assert_allclose(got.class_iou, golden[f"{state}/class_iou_nan_if_absent"])


def test_scores_an_image_at_a_time_match_reference(golden):
    total = metrics.ConfusionTotal(19)
    images = [(step, image) for step in range(3) for image in range(2)]
    for index, (step, image) in enumerate(images):
        labels = golden[f"step{step}/labels"][image]
        predictions = golden[f"step{step}/preds"][image]
        counts = metrics.confusion_matrix(labels, predictions, 19)
        total.add(counts)
        alone, running = metrics.scores(counts), total.scores()
        assert alone.mean_iou == pytest.approx(golden["per_image_iou"][index])
        assert alone.pixel_accuracy == pytest.approx(golden["per_image_acc"][index])
        assert running.mean_iou == pytest.approx(golden["running_iou"][index])
        assert running.pixel_accuracy == pytest.approx(golden["running_acc"][index])


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_the_total_equals_scikit_learns_on_any_number_of_devices(devices, rng):
    mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices])
    total = metrics.ConfusionTotal(7, mesh=mesh)
    seen = []
    for images, real in ((4, 4), (3, 3), (4, 1)):  # Three of the last batch only fill it up.
        labels = rng.integers(0, 7, (images, 9, 13)).astype(np.uint8)
        predictions = rng.integers(0, 7, labels.shape).astype(np.uint8)
        labels[rng.random(labels.shape) < 0.3] = 255
        labels[real:] = 255
        total.update(labels, predictions)
        seen.append((labels[:real].ravel(), predictions[:real].ravel()))
    labels, predictions = (np.concatenate(x) for x in zip(*seen, strict=True))
    valid = labels != 255
    labels, predictions = labels[valid], predictions[valid]
    np.testing.assert_array_equal(
        total.counts, sklearn.metrics.confusion_matrix(labels, predictions, labels=range(7))
    )
    got = total.scores()
    jaccard = sklearn.metrics.jaccard_score(labels, predictions, average=None)
    np.testing.assert_allclose(got.class_iou, jaccard, rtol=1e-12)
    assert got.mean_iou == pytest.approx(jaccard.mean(), rel=1e-12)
    assert got.pixel_accuracy == sklearn.metrics.accuracy_score(labels, predictions)


def test_iou_is_the_official_cityscapes_evaluations(rng):
    """TP / (TP + FP + FN) over all images; pixels ignored in the label are no false positives."""
    labels = rng.integers(0, 20, (3, 16, 31)).astype(np.uint8)
    labels[labels == 19] = 255
    predictions = rng.integers(0, 19, labels.shape).astype(np.uint8)
    total = metrics.ConfusionTotal(19)
    for pair in zip(labels, predictions, strict=True):
        total.update(*(x[None] for x in pair))
    for c, iou in enumerate(total.scores().class_iou):
        hit = np.sum((labels == c) & (predictions == c))
        false = np.sum((labels != c) & (labels != 255) & (predictions == c))
        missed = np.sum((labels == c) & (predictions != c))
        assert iou == pytest.approx(hit / (hit + false + missed), rel=1e-12)


def test_counts_on_the_devices_carry_beyond_32_bits():
    total = metrics.ConfusionTotal(2)
    almost = np.array([[[2**32 - 3, 0], [0, 5]], [[1, 0], [0, 0]]], np.uint32)
    total._words = jax.device_put(almost, total._words.sharding)
    total.update(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8))
    np.testing.assert_array_equal(total.counts, [[2**33 + 1, 0], [0, 5]])


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_confusion_matrix_against_loop(dtype, rng):
    labels = rng.integers(0, 5, (2, 7, 11)).astype(dtype)
    labels[rng.random(labels.shape) < 0.2] = 255
    predictions = rng.integers(0, 5, labels.shape).astype(np.int32)
    matrix = metrics.confusion_matrix(jnp.asarray(labels), jnp.asarray(predictions), 5)
    assert isinstance(matrix, jax.Array)
    assert matrix.dtype == jnp.int32
    np.testing.assert_array_equal(matrix, confusion_loop(labels, predictions, 5))


def test_values_outside_the_classes_reach_no_other_cell():
    labels = jnp.asarray([0, 1, 2, -1, 3, 1, 255], jnp.int32)
    predictions = jnp.asarray([0, 3, -1, 1, 1, 2, 0], jnp.int32)
    matrix = metrics.confusion_matrix(labels, predictions, 3)
    np.testing.assert_array_equal(matrix, [[1, 0, 0], [0, 0, 1], [0, 0, 0]])


def test_the_ignored_label_may_be_a_class_number():
    labels = jnp.asarray([0, 1, 2], jnp.int32)
    matrix = metrics.confusion_matrix(labels, labels, 3, ignore=2)
    np.testing.assert_array_equal(matrix, np.diag([1, 1, 0]))


def test_counts_stay_exact_where_float32_would_not():
    total = metrics.ConfusionTotal(2)
    total.add(np.asarray([[2**31 - 1, 0], [0, 2**24]], np.int64))
    total.update(np.asarray([0, 0, 1], np.uint8), np.asarray([0, 0, 1], np.int32))
    np.testing.assert_array_equal(total.counts, [[2**31 + 1, 0], [0, 2**24 + 1]])


def test_an_absent_class_is_left_out_and_a_missed_one_is_not():
    # Class 0: 2 of 3 found; class 1: predicted once, never labeled; class 2: nowhere.
    got = metrics.scores(np.asarray([[2, 1, 0], [0, 0, 0], [0, 0, 0]]))
    np.testing.assert_array_equal(got.class_iou, [2 / 3, 0, np.nan])
    assert got.mean_iou == pytest.approx(1 / 3)
    assert got.mean_accuracy == pytest.approx(2 / 3)
    assert got.freq_weighted_accuracy == pytest.approx(2 / 3)


def test_no_pixels_give_nan_without_a_warning():
    got = metrics.scores(np.zeros((3, 3), np.int64))
    assert np.isnan(got.class_iou).all()
    numbers = [
        got.mean_iou,
        got.pixel_accuracy,
        got.mean_accuracy,
        got.freq_weighted_accuracy,
    ]
    assert np.isnan(numbers).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 50), min_size=4, max_size=4), min_size=4, max_size=4))
def test_scores_do_not_depend_on_the_order_of_classes(rows):
    matrix = np.asarray(rows, np.int64)
    order = [2, 0, 3, 1]
    got, permuted = metrics.scores(matrix), metrics.scores(matrix[order][:, order])
    np.testing.assert_allclose(permuted.class_iou, got.class_iou[order])
    np.testing.assert_allclose(permuted.mean_iou, got.mean_iou)
    np.testing.assert_allclose(permuted.mean_accuracy, got.mean_accuracy)
    np.testing.assert_allclose(permuted.freq_weighted_accuracy, got.freq_weighted_accuracy)


def test_names_for_a_log():
    got = metrics.scores(np.asarray([[3, 1], [0, 4]]))
    assert got.to_dict(["road", "car"]) == {
        "miou": pytest.approx((3 / 4 + 4 / 5) / 2),
        "pixel_accuracy": 7 / 8,
        "mean_accuracy": pytest.approx((3 / 4 + 1) / 2),
        "freq_weighted_accuracy": pytest.approx((3 / 4 + 4 / 5) / 2),
        "iou/road": 3 / 4,
        "iou/car": 4 / 5,
    }
    assert "iou/1" in got.to_dict()


def test_errors_say_what_to_do():
    unchecked = inspect.unwrap(metrics.confusion_matrix)
    with pytest.raises(ValueError, match=r"shape \(4, 4\), predictions \(2, 2\); resize"):
        unchecked(jnp.zeros((4, 4), int), jnp.zeros((2, 2), int), 3)
    unchecked = inspect.unwrap(metrics.scores)
    with pytest.raises(ValueError, match=r"shape \(2, 3\), expected \(classes, classes\)"):
        unchecked(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="got 1 class names, expected 2"):
        metrics.scores(np.eye(2, dtype=np.int64)).to_dict(["road"])
    with pytest.raises(ValueError, match="count with num_classes=3"):
        metrics.ConfusionTotal(3).add(np.eye(2, dtype=np.int64))
    with pytest.raises(ValueError, match="would overflow int32"):
        jax.eval_shape(
            lambda x: metrics.confusion_matrix(x, x, 3), jax.ShapeDtypeStruct((2**31,), jnp.uint8)
        )
