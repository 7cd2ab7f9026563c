"""Accuracies: top-1, top-5, and of every class."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Integer


def ranks(
    logits: Float[np.ndarray, "n k"], labels: Integer[np.ndarray, "n"]
) -> Int[np.ndarray, "n"]:
    """How many classes lie ahead of an image's label: 0 where it has the largest logit.

    Of equal logits the first classes lie ahead, as for `argmax`. A label whose logit is NaN is the last.
    """
    own = logits[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    ahead = ((logits > own) | ((logits == own) & earlier)).sum(1)
    return np.where(np.isnan(own[:, 0]), logits.shape[1], ahead)


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """How often the right class is found.

    Attributes:
        top1, top5: shares of all images whose class is the first, or among the first five; NaN without images.
        per_class: top-1 of the images of each class; NaN for classes without images.
        images: their number.
    """

    top1: float
    top5: float
    per_class: tuple[float, ...]
    images: int

    @classmethod
    def of(
        cls, rank: Integer[np.ndarray, "n"], labels: Integer[np.ndarray, "n"], classes: int
    ) -> "Accuracy":
        """Of what `ranks` gives for all images."""
        first = rank < 1
        counts = np.bincount(labels, minlength=classes)
        right = np.bincount(labels[first], minlength=classes)
        with np.errstate(invalid="ignore", divide="ignore"):
            per_class = right / counts
        return cls(_share(first), _share(rank < 5), tuple(per_class.tolist()), len(labels))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, all but `per_class`; None for what is unknown."""
        known = {"top1": self.top1, "top5": self.top5}
        shares = {name: None if np.isnan(x) else x for name, x in known.items()}
        return {**shares, "images": self.images}


def _share(right: Bool[np.ndarray, "n"]) -> float:
    return float(right.mean()) if right.size else float("nan")
