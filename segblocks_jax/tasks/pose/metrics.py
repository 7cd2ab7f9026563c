"""Scores of poses: PCKh, and the accuracy that is watched in training."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from segblocks_jax.errors import InputError
from segblocks_jax.tasks.pose.heatmaps import Maps, peaks
from segblocks_jax.tasks.pose.joints import MPII, PARTS, UNSCORED

THRESHOLD = 0.5
HEAD = 0.6
"""Length of a head, as a share of its box's diagonal."""
_STRICT = np.arange(0, 0.12, 0.01)[11]  # As published, though it is called 0.1.
_NEAR = 0.1  # Share of the maps' sides; half of it is near enough in training.


@dataclasses.dataclass(frozen=True)
class Pckh:
    """Shares of joints that are found within a length of the head.

    Attributes:
        parts: by name, as `PARTS`, within half a head; NaN without visible joints of either side.
        mean: of all visible joints but `UNSCORED`, within half a head; NaN without any.
        mean_strict: the same within a tenth of a head; as published, 0.11 of it.
        people: their number.
    """

    parts: Mapping[str, float]
    mean: float
    mean_strict: float
    people: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: `pckh`, `pckh_strict`, `pckh_PART`, `people`; None for what is unknown."""
        shares = {"pckh": self.mean, "pckh_strict": self.mean_strict}
        shares |= {f"pckh_{name}": share for name, share in self.parts.items()}
        known = {name: None if np.isnan(x) else x for name, x in shares.items()}
        return known | {"people": self.people}


def pckh(
    found: Float[np.ndarray, "n 16 2"],
    joints: Float[np.ndarray, "n 16 2"],
    visible: Bool[np.ndarray, "n 16"],
    heads: Float[np.ndarray, "n 2 2"],
) -> Pckh:
    """Compares poses with the truth; all in pixels of the same coordinates.

    Args:
        found: predicted joints, in the order of `MPII`.
        joints: the true ones.
        visible: which of them count.
        heads: two opposite corners of each person's head.

    Raises:
        InputError: a head without a size, or numbers that aren't finite.

    Source: Andriluka et al. (CVPR 2014), with the head's length as in MPII's evaluation.
    """
    lengths = HEAD * np.linalg.norm(heads[:, 1] - heads[:, 0], axis=-1)
    finite = np.isfinite(found).all() and np.isfinite(joints[visible]).all()
    if not finite or not (lengths > 0).all():
        raise InputError(
            "pckh: joints that aren't finite, or heads without a size; expected pixels, and two corners of each head"
        )
    distances = np.linalg.norm(found - joints, axis=-1) / lengths[:, None]
    counts = visible.sum(0)

    def shares(threshold: float) -> tuple[np.ndarray, float]:
        right = ((distances <= threshold) & visible).sum(0)
        scored = [i for i, name in enumerate(MPII) if name not in UNSCORED]
        with np.errstate(invalid="ignore", divide="ignore"):
            return right / counts, float(right[scored].sum() / np.float64(counts[scored].sum()))

    each, mean = shares(THRESHOLD)
    parts = {
        part: float(np.mean([each[MPII.index(name)] for name in names]))
        for part, names in PARTS.items()
    }
    return Pckh(parts, mean, shares(_STRICT)[1], len(found))


class Accuracy(NamedTuple):
    """What `accuracy` finds.

    Attributes:
        mean: over the joints that are there; 0 without any.
        joints: of each joint; -1 for those that are in no image.
        number: of joints that are there.
    """

    mean: Float[Array | np.ndarray, ""] | np.floating
    joints: Float[Array | np.ndarray, "joints"]
    number: Int[Array | np.ndarray, ""] | np.integer


def accuracy(heatmaps: Maps, target: Maps) -> Accuracy:
    """Shares of joints whose maxima lie near those of the target's maps; watched in training.

    Distances in x are divided by a tenth of the maps' height, those in y by a tenth of their width: swapped, as
    published. Nearer than a half is right. A joint is there in images where its target's maximum is in neither of
    the first two rows and columns.
    """
    xp: Any = heatmaps.__array_namespace__()
    (found, _), (true, _) = peaks(heatmaps), peaks(target)
    height, width = heatmaps.shape[1:3]
    wide = np.float64 if xp is np else found.dtype
    unit = xp.asarray([height * _NEAR, width * _NEAR], dtype=wide)[None, None]
    there = (true > 1).all(-1)
    away = found.astype(wide) / unit - true.astype(wide) / unit
    right = there & (xp.sqrt(xp.sum(away * away, axis=-1)) < THRESHOLD)
    counts, rights = (x.sum(0).astype(wide) for x in (there, right))
    some = counts > 0
    each = xp.where(some, rights / xp.maximum(counts, xp.ones_like(counts)), -xp.ones_like(counts))
    number = some.sum()
    total = xp.where(some, each, xp.zeros_like(each)).sum()
    return Accuracy(total / xp.maximum(number, xp.ones_like(number)).astype(wide), each, number)
