"""Scores of semantic segmentation, from a confusion matrix that is exact to the last pixel.

A batch is counted on its device in int32, batches are added up on the host in int64: float32
would lose pixels from 2**24 on, which is eight Cityscapes images.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float64, Int32, Int64, Integer


@functools.partial(jax.jit, static_argnames=("num_classes", "ignore"))
def confusion_matrix(
    labels: Integer[Array | np.ndarray, "*pixels"],
    predictions: Integer[Array | np.ndarray, "*pixels"],
    num_classes: int,
    ignore: int = 255,
) -> Int32[Array, "k k"]:
    """Counts pixels by label (row) and prediction (column), on the device of its arguments.

    `matrix[i, j] = sum((labels == i) & (predictions == j) & (labels != ignore))`. Pixels whose
    label or prediction lies outside [0, num_classes) are left out too.

    Raises:
      ValueError: the shapes differ, or one call holds 2**31 pixels or more.
    """
    if labels.shape != predictions.shape:
        raise ValueError(
            f"confusion_matrix: labels have shape {labels.shape}, predictions {predictions.shape}; "
            "resize the logits to the labels' size before taking the argmax"
        )
    if labels.size >= 2**31:
        raise ValueError(
            f"confusion_matrix: {labels.size} pixels in one call would overflow int32 counts; "
            "call it a batch at a time and add the matrices up in int64"
        )
    labels = labels.astype(jnp.int32).reshape(-1)
    predictions = predictions.astype(jnp.int32).reshape(-1)
    counted = (labels != ignore) & (labels >= 0) & (labels < num_classes)
    counted &= (predictions >= 0) & (predictions < num_classes)
    cells = num_classes * num_classes
    cell = jnp.where(counted, labels * num_classes + predictions, cells)
    counts = jnp.zeros(cells + 1, jnp.int32).at[cell].add(1)
    return counts[:cells].reshape(num_classes, num_classes)


class ConfusionTotal:
    """A confusion matrix over any number of batches: `counts`, int64 (k, k), on the host."""

    def __init__(self, num_classes: int, ignore: int = 255):
        """Starts from no pixel; arguments as in `confusion_matrix`."""
        self.ignore = ignore
        self.counts = np.zeros((num_classes, num_classes), np.int64)

    def update(
        self,
        labels: Integer[Array | np.ndarray, "*pixels"],
        predictions: Integer[Array | np.ndarray, "*pixels"],
    ) -> None:
        """Adds the pixels of one batch; waits for the device."""
        self.add(confusion_matrix(labels, predictions, len(self.counts), self.ignore))

    def add(self, counts: Int32[Array, "k k"] | Int64[np.ndarray, "k k"]) -> None:
        """Adds a matrix counted elsewhere, in a step or by another process.

        Raises:
          ValueError: the matrix is of another size.
        """
        if counts.shape != self.counts.shape:
            raise ValueError(
                f"ConfusionTotal.add: got a matrix of shape {counts.shape}, expected "
                f"{self.counts.shape}; count with num_classes={len(self.counts)}"
            )
        self.counts += np.asarray(counts, np.int64)

    def scores(self) -> "Scores":
        """Scores of all pixels so far."""
        return scores(self.counts)


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """Scores of a confusion matrix, all in [0, 1]; NaN where there is no pixel to tell.

    Attributes:
      class_iou: intersection over union of every class; NaN for a class that neither labels nor
        predictions contain.
      mean_iou: mean of `class_iou` over the classes that occur in labels or predictions.
      pixel_accuracy: correct pixels over all pixels.
      mean_accuracy: mean over the classes that occur in the labels of their share found.
      freq_weighted_accuracy: `class_iou` weighted by the share of the class in the labels.
    """

    class_iou: Float64[np.ndarray, " k"]
    mean_iou: float
    pixel_accuracy: float
    mean_accuracy: float
    freq_weighted_accuracy: float

    def to_dict(self, class_names: Sequence[str] | None = None) -> dict[str, float]:
        """Names for a log: "miou", "pixel_accuracy", ..., and "iou/<class>" for every class.

        Args:
          class_names: one name a class; their numbers where not given.
        """
        names = [str(i) for i in range(len(self.class_iou))] if class_names is None else class_names
        if len(names) != len(self.class_iou):
            raise ValueError(
                f"Scores.to_dict: got {len(names)} class names, expected {len(self.class_iou)}; "
                "pass the names of the table that the labels were made with"
            )
        return {
            "miou": self.mean_iou,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "freq_weighted_accuracy": self.freq_weighted_accuracy,
        } | {f"iou/{name}": float(iou) for name, iou in zip(names, self.class_iou, strict=True)}


def scores(confusion: Integer[np.ndarray, "k k"] | Integer[Array, "k k"]) -> Scores:
    """Computes all scores of a confusion matrix (row = label, column = prediction) in float64."""
    matrix = np.asarray(confusion, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            f"scores: got a confusion matrix of shape {matrix.shape}, expected (classes, classes); "
            "make it with confusion_matrix"
        )
    correct = np.diag(matrix)
    labelled = matrix.sum(axis=1)
    class_iou = _ratio(correct, labelled + matrix.sum(axis=0) - correct)
    total = matrix.sum()
    weighted = float(np.sum(_ratio(labelled, total) * np.nan_to_num(class_iou)))
    return Scores(
        class_iou=class_iou,
        mean_iou=_mean_present(class_iou),
        pixel_accuracy=float(_ratio(correct.sum(keepdims=True), total)[0]),
        mean_accuracy=_mean_present(_ratio(correct, labelled)),
        freq_weighted_accuracy=weighted,
    )


def _ratio(part: np.ndarray, whole: np.ndarray | np.float64) -> np.ndarray:
    """`part / whole`, NaN where `whole` is 0, without numpy's warning."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _mean_present(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN, not a warning, when there is none."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")
