"""The pipeline: epochs, determinism, exact resume, padded evaluation batches."""

import itertools
import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segblocks_jax.data import NORMALIZATION, eval_batches, padded_sizes, train_batches
from segblocks_jax.tasks.segmentation.augmentation import Augmentation

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
import itertools, json, zlib, numpy as np
from segblocks_jax.tasks.segmentation.augmentation import Augmentation
from segblocks_jax.data import train_batches

def make(workers, steps=50, state=None):
    rng = np.random.default_rng(0)
    source = [
        {"image": rng.integers(0, 256, (14, 18, 3), np.uint8),
         "label": rng.integers(0, 19, (14, 18), np.uint8), "name": ""}
        for _ in range(9)
    ]
    batches = train_batches(source, Augmentation((8, 8)), 4, 3, workers=workers)
    if state is not None:
        batches.set_state(state)
    taken = [[zlib.crc32(b[k].tobytes()) for k in ("image", "label")]
             for b in itertools.islice(batches, steps)]
    state = json.loads(json.dumps(batches.get_state()))
    batches.close()
    return taken, state

if __name__ == "__main__":
    expected, _ = make(0)
    assert len({tuple(b) for b in expected}) == 50
    for workers in (1, 2):
        assert make(workers)[0] == expected
    for stopped, before, after in ((0, 0, 2), (7, 2, 0), (18, 1, 2)):
        first, state = make(before, stopped)
        assert first == expected[:stopped]
        rest, _ = make(after, 50 - stopped, state)
        assert rest == expected[stopped:]
    print("as expected")
"""


@pytest.mark.slow
def test_50_batches_are_equal_for_0_1_and_2_workers_and_whenever_interrupted(tmp_path):
    # A program of its own: workers import the main module anew, and its exit must be silent.
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    result = subprocess.run(
        [sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "as expected\n"
    assert "Exception ignored" not in result.stderr
    assert "leaked" not in result.stderr


def noisy(count, size=(12, 14)):
    rng = np.random.default_rng(0)
    return [
        item | {"image": rng.integers(0, 256, (*size, 3), np.uint8)} for item in items(count, size)
    ]


def test_an_item_is_a_function_of_seed_epoch_and_index():
    source, augmentation, seed = noisy(5), Augmentation((8, 8)), 11
    batches = train_batches(source, augmentation, 5, seed)  # A batch is an epoch.
    fill = NORMALIZATION["cityscapes"].fill
    for epoch in range(3):
        batch = next(batches)
        for index, item in enumerate(source):
            rng = np.random.default_rng((seed, epoch, index))
            image, label = augmentation(item["image"], item["label"], rng, fill)
            (at,) = np.flatnonzero([np.array_equal(label, other) for other in batch["label"]])
            np.testing.assert_array_equal(batch["image"][at], image)


@pytest.mark.parametrize("hosts", [2, 3])
def test_hosts_share_the_batches_of_one(hosts):
    source, augmentation = noisy(7), Augmentation((8, 8))
    whole = train_batches(source, augmentation, 6, 1)
    shares = [
        train_batches(source, augmentation, 6, 1, shard=(host, hosts)) for host in range(hosts)
    ]
    for _ in range(5):
        batch, parts = next(whole), [next(share) for share in shares]
        for host, part in enumerate(parts):
            for name in batch:
                own = np.split(batch[name], hosts)[host]
                np.testing.assert_array_equal(part[name], own)
    alone = train_batches(source, augmentation, 6, 1)
    alone.set_state(shares[1].get_state())
    np.testing.assert_array_equal(next(alone)["image"], next(whole)["image"])


def test_a_signal_to_the_group_leaves_the_workers_to_the_main_process():
    program = """
import itertools, os, signal, time
import numpy as np
from segblocks_jax.tasks.segmentation.augmentation import Augmentation
from segblocks_jax.data import train_batches

if __name__ == "__main__":
    os.setpgid(0, 0)
    items = [{"image": np.zeros((8, 8, 3), np.uint8), "label": np.zeros((8, 8), np.uint8)}] * 8
    batches = train_batches(items, Augmentation(crop=(8, 8)), 2, 0, workers=1)
    next(batches)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
        os.killpg(0, number)
    time.sleep(0.5)
    print(sum(len(batch["image"]) for batch in itertools.islice(batches, 20)))
    batches.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "40\n", done.stderr[-2000:]


def test_a_state_of_other_batches_is_refused():
    state = train_batches(noisy(5), WHOLE, 2, 0).get_state()
    for other in (
        train_batches(noisy(5), WHOLE, 2, 1),
        train_batches(noisy(5), WHOLE, 3, 0),
        train_batches(noisy(6), WHOLE, 2, 0),
    ):
        with pytest.raises(ValueError, match=r"can't continue from .*use the seed, batch size and"):
            other.set_state(state)


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
    for shard in ((2, 2), (0, 2)):
        with pytest.raises(ValueError, match=rf"batch size 3 on host {shard[0]} of 2; expected"):
            train_batches(items(2), WHOLE, 3, 0, shard=shard)


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize(("batch_size", "hosts"), [(1, 1), (2, 2), (3, 1), (3, 3)])
def test_the_smallest_batches_and_shares(count, batch_size, hosts):
    """One image in all, a batch, or a host's share."""
    source = items(count)
    parts = [train_batches(source, WHOLE, batch_size, 0, shard=(h, hosts)) for h in range(hosts)]
    steps = -(-2 * count // batch_size)
    order = np.concatenate([seen(part, steps) for part in parts], 1).ravel()
    for epoch in (order[:count], order[count : 2 * count]):
        assert sorted(epoch) == list(range(count))
    for part in parts:
        part.close()


def test_evaluation_visits_all_in_order_and_fills_the_last_batch():
    source = items(7, (5, 6))
    batches = [*eval_batches(source, 3, 4)]
    assert [b.count for b in batches] == [3, 3, 1]
    assert [name for b in batches for name in b.names] == [item["name"] for item in source]
    fill = NORMALIZATION["cityscapes"].fill
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


def test_evaluation_batches_that_are_closed_leave_no_threads():
    before = set(threading.enumerate())  # Those of earlier tests may still be ending.
    batches = eval_batches(items(50), 2, 8)
    next(batches)
    started = set(threading.enumerate()) - before
    assert started
    batches.close()
    end = time.monotonic() + 10  # They end one after the other.
    while any(thread.is_alive() for thread in started):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_images_of_equal_padded_size_share_a_batch():
    sizes = [(5, 6), (8, 8), (9, 8), (10, 5), (7, 7)]
    source = [items(1, size, i)[0] for i, size in enumerate(sizes)]
    batches = [*eval_batches(source, 4, 4)]
    assert [b.names for b in batches] == [("item0", "item1", "item4"), ("item2", "item3")]
    assert [b.image.shape for b in batches] == [(4, 8, 8, 3), (4, 12, 8, 3)]
    assert [b.sizes for b in batches] == [((5, 6), (8, 8), (7, 7)), ((9, 8), (10, 5))]


SIZES = st.lists(st.tuples(st.integers(1, 200), st.integers(1, 200)), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.sampled_from([1, 16, 32]), st.integers(1, 6))
def test_padded_sizes_are_few_and_hold_every_image(sizes, multiple, limit):
    padded = padded_sizes(sizes, multiple, limit)
    assert set(padded) == set(sizes)
    assert len(set(padded.values())) <= limit
    for (h, w), (ph, pw) in padded.items():
        assert ph >= h
        assert pw >= w
        assert ph % multiple == pw % multiple == 0
    # No size is larger than what its own images need.
    for target in padded.values():
        own = [size for size, chosen in padded.items() if chosen == target]
        needed = (max(h for h, _ in own), max(w for _, w in own))
        assert target == tuple(-(-side // multiple) * multiple for side in needed)


def test_the_merge_that_adds_the_fewest_pixels_is_taken():
    # Nine of (32, 32) are not worth padding; the two rare ones are.
    sizes = [(32, 32)] * 9 + [(96, 64), (64, 96)]
    assert padded_sizes(sizes, 32, 2) == {
        (32, 32): (32, 32),
        (96, 64): (96, 96),
        (64, 96): (96, 96),
    }
    assert set(padded_sizes(sizes, 32, 1).values()) == {(96, 96)}
    assert len(set(padded_sizes(sizes, 32, 3).values())) == 3


def test_many_sizes_make_few_shapes_and_every_image_comes_once_and_whole():
    rng = np.random.default_rng(3)
    source = [items(1, tuple(rng.integers(3, 40, 2)), i)[0] for i in range(25)]
    batches = [*eval_batches(source, 3, 8, max_sizes=3)]
    assert len({batch.image.shape for batch in batches}) <= 3
    names = [name for batch in batches for name in batch.names]
    assert sorted(names) == sorted(item["name"] for item in source)
    by_name = {item["name"]: item for item in source}
    for batch in batches:
        for i, (name, (h, w)) in enumerate(zip(batch.names, batch.sizes, strict=True)):
            np.testing.assert_array_equal(batch.image[i, :h, :w], by_name[name]["image"])
            np.testing.assert_array_equal(batch.label[i, :h, :w], by_name[name]["label"])
            assert (batch.label[i, h:] == 255).all()
            assert (batch.label[i, :, w:] == 255).all()
        assert (batch.label[batch.count :] == 255).all()


def test_hosts_deal_out_the_evaluation_batches():
    source = items(5) + items(4, (20, 9))
    whole = [*eval_batches(source, 2, 8)]
    for hosts in (2, 3):
        dealt = [[*eval_batches(source, 2, 8, shard=(host, hosts))] for host in range(hosts)]
        for i, batch in enumerate(whole):
            other = dealt[i % hosts][i // hosts]
            assert other.names == batch.names
            np.testing.assert_array_equal(other.image, batch.image)
        assert sum(map(len, dealt)) == len(whole)
    with pytest.raises(ValueError, match="host 2 of 2"):
        eval_batches(source, 2, 8, shard=(2, 2))


def test_sizes_that_fit_are_not_padded():
    (batch,) = eval_batches(items(2), 2, 8)
    assert batch.image.shape == (2, 8, 8, 3)
    assert (batch.label != 255).all()


def test_evaluation_arguments_are_checked():
    with pytest.raises(ValueError, match="max_sizes >= 1, got 0, 4 and 8"):
        eval_batches(items(2), 0, 4)


def test_importing_the_package_imports_neither_grain_nor_tfds_nor_opencv():
    code = (
        "import sys, segblocks_jax.data; "
        "assert not {'cv2', 'grain', 'tensorflow_datasets', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
