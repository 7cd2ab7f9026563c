"""Thresholds of a trained network for many budgets, and whose they are."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Int

from segblocks_jax.errors import InputError
from segblocks_jax.interop.torch import torch_arrays
from segblocks_jax.systems.ranet.thresholds import Labels, Probabilities, budgeted, fit_thresholds

QS = tuple(p / 20 for p in range(1, 40))
"""The published ones."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """Thresholds, and what they gave on the held-out images that they were fitted on.

    Attributes:
        q: see `segblocks_jax.systems.ranet.thresholds.exit_shares`.
        thresholds: one per exit.
        accuracy: in percent.
        macs: mean operations of an image.
    """

    q: float
    thresholds: tuple[float, ...]
    accuracy: float
    macs: float

    @classmethod
    def from_mapping(cls, fields: Mapping[str, Any]) -> "Fit":
        """The inverse of `dataclasses.asdict`, also after a way through JSON."""
        return cls(**{**fields, "thresholds": tuple(fields["thresholds"])})


def fit_all(
    probabilities: Probabilities,
    labels: Labels,
    macs: Int[np.ndarray, "exits"],
    qs: Sequence[float] = QS,
) -> tuple[Fit, ...]:
    """A fit per q, on images that were not trained on and are not to be tested on; arguments as of `budgeted`."""
    found = []
    for q in qs:
        thresholds = fit_thresholds(probabilities, q)
        accuracy, spent, _ = budgeted(probabilities, labels, thresholds, macs)
        found.append(Fit(q, tuple(map(float, thresholds)), accuracy, spent))
    return tuple(found)


def within_budget(fits: Sequence[Fit], macs: float) -> Fit:
    """The most accurate fit of those that take at most so many operations an image, on average.

    Raises:
        InputError: none does, or there are no fits.
    """
    fitting = [fit for fit in fits if fit.macs <= macs]
    if not fitting:
        least = min((fit.macs for fit in fits), default=None)
        raise InputError(
            f"a budget of {macs / 1e6:g}: expected at least {least / 1e6:.4g} (10^6 operations an image), what the"
            " lowest of the fitted thresholds take"
            if least is not None
            else "a budget needs thresholds; fit them on held-out images and save them with the model"
        )
    return most_accurate(fitting)


def most_accurate(fits: Sequence[Fit]) -> Fit:
    """On the held-out images; of equal ones, that of fewest operations."""
    return max(fits, key=lambda fit: (fit.accuracy, -fit.macs))


def fingerprint(net: nnx.Module) -> str:
    """SHA-256 of a network's arrays and their names; the same for weights that were stored in bfloat16."""
    total = hashlib.sha256()
    for name, array in sorted(torch_arrays(net).items()):
        total.update(f"{name} {array.shape}".encode())
        total.update(np.asarray(array.astype(jnp.bfloat16)).tobytes())
    return total.hexdigest()
