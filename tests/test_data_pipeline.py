"""The pipeline: epochs, determinism, exact resume, padded evaluation batches."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

from segblocks_jax.data import NORMALISATION, Augmentation, eval_batches, train_batches

# Items stay whole, so that the label's value tells which item it is.
WHOLE = Augmentation((8, 8), (1.0, 1.0), flip=0.0)


def items(count, size=(8, 8), first=0):
    return [
        {
            "image": np.full((*size, 3), 10 * i % 256, np.uint8),
            "label": np.full(size, i, np.uint8),
            "name": f"item{i}",
        }
        for i in range(first, first + count)
    ]


def seen(batches, steps):
    return [batch["label"][:, 0, 0].tolist() for batch in itertools.islice(batches, steps)]


def test_every_epoch_visits_every_item_in_a_new_order():
    order = [*itertools.chain(*seen(train_batches(items(10), WHOLE, 4, seed=0), 15))]
    epochs = [order[i : i + 10] for i in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_batches_have_the_stated_form():
    batch = next(train_batches(items(3), Augmentation((5, 7)), 4, seed=0))
    assert set(batch) == {"image", "label"}
    assert batch["image"].shape == (4, 5, 7, 3)
    assert batch["label"].shape == (4, 5, 7)
    assert batch["image"].dtype == batch["label"].dtype == np.uint8


def test_batches_follow_from_the_seed():
    augmentation = Augmentation((6, 6))
    source = items(5, (12, 12))
    first = [*itertools.islice(train_batches(source, augmentation, 3, 7), 6)]
    again = [*itertools.islice(train_batches(source, augmentation, 3, 7), 6)]
    other = [*itertools.islice(train_batches(source, augmentation, 3, 8), 6)]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["label"], b["label"])
    assert any(
        not np.array_equal(a["image"], b["image"]) for a, b in zip(first, other, strict=True)
    )


def test_an_item_is_augmented_anew_each_time():
    rng = np.random.default_rng(0)
    item = items(1, (16, 16))[0] | {"image": rng.integers(0, 256, (16, 16, 3), np.uint8)}
    batch = next(train_batches([item], Augmentation((8, 8)), 4, seed=0))
    assert len({crop.tobytes() for crop in batch["image"]}) == 4


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_resume_is_exact(steps):
    augmentation = Augmentation((6, 6))
    batches = train_batches(items(7, (12, 12)), augmentation, 3, 1)
    for _ in range(steps):
        next(batches)
    state = json.loads(json.dumps(batches.get_state()))
    expected = [*itertools.islice(batches, 5)]
    resumed = train_batches(items(7, (12, 12)), augmentation, 3, 1)
    next(resumed)
    resumed.set_state(state)
    for a in expected:
        b = next(resumed)
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["label"], b["label"])


WORKERS = """
import itertools, numpy as np
from segblocks_jax.data import Augmentation, train_batches

def labels(workers):
    item = {"image": np.zeros((8, 8, 3), np.uint8), "name": ""}
    source = [item | {"label": np.full((8, 8), i, np.uint8)} for i in range(9)]
    batches = train_batches(source, Augmentation((8, 8), (1.0, 1.0)), 2, 3, workers=workers)
    first = [b["label"][:, 0, 0].tolist() for b in itertools.islice(batches, 4)]
    state = batches.get_state()
    rest = [b["label"][:, 0, 0].tolist() for b in itertools.islice(batches, 4)]
    batches.set_state(state)
    assert rest == [b["label"][:, 0, 0].tolist() for b in itertools.islice(batches, 4)]
    return first + rest

if __name__ == "__main__":
    assert labels(2) == labels(0)
"""


def test_worker_processes_make_the_same_batches(tmp_path):
    # A program of its own: workers import the main module anew, and its exit must be silent.
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    result = subprocess.run(
        [sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert "Exception ignored" not in result.stderr
    assert "leaked" not in result.stderr


def test_closed_batches_say_so():
    batches = train_batches(items(3), WHOLE, 2, 0)
    batches.close()
    with pytest.raises(ValueError, match="were closed"):
        next(batches)


def test_training_arguments_are_checked():
    with pytest.raises(ValueError, match="got 0 items, batch size 2"):
        train_batches([], WHOLE, 2, 0)
    with pytest.raises(ValueError, match="batch size 0"):
        train_batches(items(2), WHOLE, 0, 0)


def test_evaluation_visits_all_in_order_and_fills_the_last_batch():
    source = items(7, (5, 6))
    batches = [*eval_batches(source, 3, 4)]
    assert [b.count for b in batches] == [3, 3, 1]
    assert [name for b in batches for name in b.names] == [item["name"] for item in source]
    fill = NORMALISATION["cityscapes"].fill
    for start, batch in zip((0, 3, 6), batches, strict=True):
        assert batch.image.shape == (3, 8, 8, 3)
        assert batch.sizes == ((5, 6),) * batch.count
        for i in range(batch.count):
            np.testing.assert_array_equal(batch.image[i, :5, :6], source[start + i]["image"])
            np.testing.assert_array_equal(batch.label[i, :5, :6], source[start + i]["label"])
        assert (batch.label[:, 5:] == 255).all()
        assert (batch.label[:, :, 6:] == 255).all()
        assert (batch.image[:, 5:] == fill).all()
    assert (batches[-1].label[1:] == 255).all()
    assert (batches[-1].image[1:] == fill).all()


def test_images_of_equal_padded_size_share_a_batch():
    sizes = [(5, 6), (8, 8), (9, 8), (10, 5), (7, 7)]
    source = [items(1, size, i)[0] for i, size in enumerate(sizes)]
    batches = [*eval_batches(source, 4, 4)]
    assert [b.names for b in batches] == [("item0", "item1", "item4"), ("item2", "item3")]
    assert [b.image.shape for b in batches] == [(4, 8, 8, 3), (4, 12, 8, 3)]
    assert [b.sizes for b in batches] == [((5, 6), (8, 8), (7, 7)), ((9, 8), (10, 5))]


def test_sizes_that_fit_are_not_padded():
    (batch,) = eval_batches(items(2), 2, 8)
    assert batch.image.shape == (2, 8, 8, 3)
    assert (batch.label != 255).all()


def test_evaluation_arguments_are_checked():
    with pytest.raises(ValueError, match="max_sizes >= 1, got 0, 4 and 8"):
        eval_batches(items(2), 0, 4)


def test_importing_the_package_imports_neither_grain_nor_tfds():
    code = (
        "import sys, segblocks_jax.data; "
        "assert not {'grain', 'tensorflow_datasets', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
