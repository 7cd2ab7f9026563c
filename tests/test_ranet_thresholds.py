"""Budgeted batch classification: thresholds, accuracies and operations as recorded, and as defined."""

import pathlib

import golden
import numpy as np
import pytest

from segblocks_jax.errors import InputError
from segblocks_jax.systems import ranet
from segblocks_jax.systems.ranet.thresholds import NEVER, exit_shares, exits_taken

CASES = ("k8_c10", "k6_c20_ties", "k8_small", "k3_c7")


@pytest.mark.parametrize("case", CASES)
def test_all_39_points(shared: pathlib.Path, case: str) -> None:
    z = golden.load(shared, "dynconv_ranet/ranet_thresholds")
    z = {k.removeprefix(f"{case}/"): v for k, v in z.items() if k.startswith(f"{case}/")}
    exits, count, _ = z["val_pred"].shape
    for i, q in enumerate(z["q"]):
        shares = exit_shares(exits, float(q))
        np.testing.assert_allclose(shares, z["probs"][i], rtol=3e-7)
        wanted = np.floor(np.float32(count) * shares)
        np.testing.assert_array_equal(wanted, z["wanted_exits"][i])
        thresholds = ranet.fit_thresholds(z["val_pred"], float(q))
        assert thresholds.dtype == np.float32
        np.testing.assert_array_equal(thresholds, z["T"][i])
        for split in ("val", "test"):
            given = z[f"{split}_pred"], z[f"{split}_target"], thresholds, z["macs"]
            accuracy, macs, counts = ranet.budgeted(*given)
            assert np.float32(accuracy) == z[f"acc_{split}"][i]
            # Recorded sums are float32.
            np.testing.assert_allclose(macs, z[f"macs_{split}"][i], rtol=2e-7)
        np.testing.assert_array_equal(counts, z["exit_counts_test"][i])


def probabilities(rng: np.random.Generator, exits: int, count: int, levels: int) -> np.ndarray:
    """Of two classes, with many equal confidences."""
    first = (rng.integers(0, levels + 1, (exits, count)) / levels).astype(np.float32)
    return np.stack([first, 1 - first], -1)


@pytest.mark.parametrize("seed", range(8))
def test_against_a_walk_over_sorted_samples(seed: int) -> None:
    rng = np.random.default_rng(seed)
    exits, count = int(rng.integers(1, 6)), int(rng.integers(1, 60))
    given, q = probabilities(rng, exits, count, 7), float(rng.uniform(0.05, 1.95))
    found = ranet.fit_thresholds(given, q)
    wanted = np.floor(np.float32(count) * exit_shares(exits, q))
    gone: set[int] = set()
    for k in range(exits - 1):
        confidence, walked, expected = given[k].max(-1), 0, NEVER
        for i in sorted(range(count), key=lambda i: -confidence[i]):
            if i not in gone:
                walked += 1
                if walked == wanted[k]:
                    expected = confidence[i]
                    break
        gone |= {i for i in range(count) if confidence[i] >= expected}
        assert found[k] == expected
    assert found[-1] == -NEVER


def test_what_a_budget_gives_by_hand() -> None:
    given = np.array(
        [[[0.9, 0.1], [0.6, 0.4], [0.5, 0.5]], [[0.2, 0.8], [0.3, 0.7], [0.4, 0.6]]], np.float32
    )
    thresholds = np.array([0.6, -1e8], np.float32)
    np.testing.assert_array_equal(exits_taken(given.max(-1), thresholds), [0, 0, 1])
    accuracy, macs, counts = ranet.budgeted(given, np.array([0, 1, 1]), thresholds, [10, 40])
    assert accuracy == pytest.approx(200 / 3)
    assert macs == 20
    np.testing.assert_array_equal(counts, [2, 1])


def test_a_larger_q_takes_more_operations(rng: np.random.Generator) -> None:
    logits = rng.standard_normal((4, 500, 10)) * np.array([1, 2, 3, 4])[:, None, None]
    given = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    macs, labels = np.array([1, 2, 3, 4]), np.zeros(500, int)
    fits = [ranet.fit_thresholds(given, q) for q in (0.1, 0.5, 1.0, 1.9)]
    spent = [ranet.budgeted(given, labels, fit, macs)[1] for fit in fits]
    assert spent == sorted(spent)
    assert spent[0] < 1.2
    assert spent[-1] > 3


@pytest.mark.parametrize("q", [0.0, -1.0, float("nan"), float("inf")])
def test_a_q_that_is_none(q: float) -> None:
    with pytest.raises(InputError, match="expected a number above 0"):
        ranet.fit_thresholds(np.ones((2, 3, 1), np.float32), q)


@pytest.mark.parametrize("q", [1e-46, 1e30])
def test_a_q_without_powers(q: float) -> None:
    with pytest.raises(InputError, match="float32 has no powers"):
        ranet.fit_thresholds(np.ones((8, 3, 1), np.float32), q)


def test_float64_leaves_where_float32_does(rng: np.random.Generator) -> None:
    """The image that sets a threshold reaches it."""
    logits = 3 * rng.standard_normal((4, 200, 10))
    given = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    thresholds = ranet.fit_thresholds(given, 1.0)
    counts = ranet.budgeted(given, np.zeros(200, int), thresholds, [1, 2, 3, 4])[2]
    np.testing.assert_array_equal(counts, [50, 50, 50, 50])


def test_probabilities_that_are_no_numbers() -> None:
    given = np.full((2, 4, 3), 1 / 3, np.float32)
    given[0, 1] = np.nan
    for call in (
        lambda: ranet.fit_thresholds(given, 1.0),
        lambda: ranet.budgeted(given, np.zeros(4, int), np.zeros(2, np.float32), [1, 2]),
    ):
        with pytest.raises(InputError, match="have NaN"):
            call()


def test_shapes_that_do_not_belong_together(unchecked: None) -> None:
    given = np.full((3, 5, 2), 0.5, np.float32)
    labels, macs = np.zeros(5, int), np.ones(3)
    with pytest.raises(
        InputError, match=r"thresholds have shape \(8,\); expected \(3,\).*another model"
    ):
        ranet.budgeted(given, labels, np.ones(8, np.float32), macs)
    with pytest.raises(InputError, match=r"labels have shape \(4,\)"):
        ranet.budgeted(given, labels[:4], np.ones(3, np.float32), macs)
    with pytest.raises(InputError, match=r"expected \(exits, samples, classes\)"):
        ranet.fit_thresholds(given[0], 1.0)
