"""Budgeted batch classification: thresholds on confidence, fitted on held-out images, and what they give.

An image leaves at the first exit that is confident enough of it. Source: RANet, as MSDNet (arXiv 1703.09844).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Float32, Int, Integer, Real

from segblocks_jax.errors import InputError

NEVER = np.float32(1e8)
"""A threshold that no confidence reaches; its negative one is that of the last exit, where all leave."""

Probabilities = Float[Array | np.ndarray, "exits n classes"]
Labels = Integer[Array | np.ndarray, "n"]
Thresholds = Float[Array | np.ndarray, "exits"]


def exit_shares(exits: int, q: float) -> Float[np.ndarray, "exits"]:
    """The geometric distribution over exits: ``q**k / sum(q**k)`` for k = 1, 2, ..., in float32.

    Below 1, q favors early exits, above late ones.

    Raises:
        InputError: q is not above 0.

    Example:
        >>> exit_shares(2, 1.0).tolist()
        [0.5, 0.5]
    """
    if not 0 < q < np.inf:
        raise InputError(f"q is {q}; expected a number above 0, such as 0.5")
    # Each operation is rounded to float32 in this order, as published: counts of images are cut to whole numbers.
    with np.errstate(all="ignore"):
        logarithm = np.float32(np.log(np.float64(np.float32(q))))
        powers = logarithm * np.arange(1, exits + 1, dtype=np.float32)
        shares = np.exp(powers.astype(np.float64)).astype(np.float32)
        shares = shares / np.add.accumulate(shares)[-1]
    if not np.isfinite(shares).all():
        raise InputError(f"q is {q}, of which float32 has no powers; expected a number such as 0.5")
    return shares


def confidences(probabilities: Probabilities) -> Float32[np.ndarray, "exits n"]:
    """The largest probability of each exit and sample, in float32 as thresholds are."""
    return np.asarray(probabilities).max(-1).astype(np.float32)


def fit_thresholds(probabilities: Probabilities, q: float) -> Float32[np.ndarray, "exits"]:
    """Thresholds for which shares of samples like these leave at each exit as in `exit_shares`.

    Exit by exit, the threshold is the confidence of the n-th most confident of the samples that are left, n being the
    exit's share of all, rounded down. All samples that reach it leave, those of equal confidence too. Where n is 0,
    or more than are left, it is `NEVER`.

    Args:
        probabilities: softmax of each exit, of samples that were neither trained nor are to be tested on.
        q: see `exit_shares`.

    Returns:
        A threshold per exit; that of the last is ``-NEVER``.

    Raises:
        InputError: another number of axes, no samples, or q is not above 0.
    """
    confidence = confidences(_checked(probabilities))
    exits, count = confidence.shape
    wanted = np.floor(np.float32(count) * exit_shares(exits, q)).astype(int)
    thresholds = np.full(exits, NEVER, np.float32)
    left = np.ones(count, bool)
    for k in range(exits - 1):
        candidates = np.sort(confidence[k, left])
        if 0 < wanted[k] <= candidates.size:
            thresholds[k] = candidates[-wanted[k]]
        left &= confidence[k] < thresholds[k]
    thresholds[-1] = -NEVER
    return thresholds


def exits_taken(
    confidence: Float[np.ndarray, "exits n"], thresholds: Thresholds
) -> Int[np.ndarray, "n"]:
    """The exit of each sample: the first whose threshold its confidence reaches, or the last."""
    leaves = confidence >= np.asarray(thresholds)[:, None]
    leaves[-1] = True
    return leaves.argmax(0)


def budgeted(
    probabilities: Probabilities,
    labels: Labels,
    thresholds: Thresholds,
    macs: Real[Array | np.ndarray, "exits"] | Sequence[Any],
) -> tuple[float, float, Int[np.ndarray, "exits"]]:
    """What leaving early gives: simulated, from the results of all exits.

    Args:
        probabilities: softmax of each exit.
        labels: of the samples.
        thresholds: of `fit_thresholds`.
        macs: operations up to each exit.

    Returns:
        The right answers in percent, the mean operations of a sample, and the number of samples per exit.

    Raises:
        InputError: shapes that don't belong together.
    """
    probabilities = _checked(probabilities)
    exits, count, _ = probabilities.shape
    labels, thresholds, macs = (np.asarray(x) for x in (labels, thresholds, macs))
    for name, found, expected in (
        ("labels", labels.shape, (count,)),
        ("thresholds", thresholds.shape, (exits,)),
        ("macs", macs.shape, (exits,)),
    ):
        if found != expected:
            raise InputError(
                f"budgeted: {name} have shape {found}; expected {expected} for probabilities of {exits} exits and"
                f" {count} samples; are they of another model or data set?"
            )
    taken = exits_taken(confidences(probabilities), thresholds)
    answers = probabilities.argmax(-1)[taken, np.arange(count)]
    counts = np.bincount(taken, minlength=exits)
    expected_macs = float(counts @ macs.astype(np.float64)) / count
    right = np.count_nonzero(answers == labels)
    return 100.0 * right / count, expected_macs, counts


def _checked(probabilities: Probabilities) -> Float[np.ndarray, "exits n classes"]:
    probabilities = np.asarray(probabilities)
    if probabilities.ndim != 3 or 0 in probabilities.shape:
        raise InputError(
            f"probabilities have shape {probabilities.shape}; expected (exits, samples, classes), none of them 0"
        )
    if np.isnan(probabilities).any():
        raise InputError(
            "probabilities have NaN; is the network trained with a rate that is too high?"
        )
    return probabilities
