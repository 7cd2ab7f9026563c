"""Scores of segmentation from a confusion matrix that is exact to the last pixel; label boundaries in blocks.

Batches are counted and added up on the devices, in integers: float32 would lose pixels from 2**24 on,
which is eight Cityscapes images, and int32 wraps at 2**31, a tenth of Mapillary's validation split.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float64, Int, Int32, Int64, Integer, UInt8, UInt32

from segblocks_jax.tasks.segmentation.labels import IGNORE


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
    """A confusion matrix over any number of batches, kept on the devices until it is read.

    With a mesh every device counts its own images of a batch; the result is the same for any number of
    devices, to the pixel. Batches need not be a multiple of the devices.
    """

    def __init__(self, num_classes: int, ignore: int = 255, mesh: Mesh | None = None):
        """Starts from no pixel; sizes as for `confusion_matrix`.

        The mesh has one axis, over which the images of a batch are spread; default: one device.
        """
        self.ignore = ignore
        self._mesh = mesh or jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
        self._added = np.zeros((num_classes, num_classes), np.int64)
        nothing = np.zeros((2, num_classes, num_classes), np.uint32)
        self._words = jax.device_put(nothing, NamedSharding(self._mesh, P()))

    @property
    def counts(self) -> Int64[np.ndarray, "k k"]:
        """The matrix so far, row = label, column = prediction; waits for the devices."""
        low, high = np.asarray(self._words, np.int64)
        return self._added + low + (high << 32)

    def update(
        self,
        labels: Integer[Array | np.ndarray, "n *pixels"],
        predictions: Integer[Array | np.ndarray, "n *pixels"],
    ) -> None:
        """Adds the pixels of one batch; doesn't wait for the devices.

        Raises:
          ValueError: see `confusion_matrix`.
        """
        images = NamedSharding(self._mesh, P(*self._mesh.axis_names))
        missing = -len(labels) % self._mesh.size
        pad = [(0, missing)] + [(0, 0)] * (labels.ndim - 1)
        if missing:
            labels = np.pad(labels, pad, constant_values=self.ignore)
            predictions = np.pad(predictions, pad)
        labels, predictions = (jax.device_put(x, images) for x in (labels, predictions))
        self._words = _accumulate(self._words, labels, predictions, self.ignore, self._mesh)

    def add(self, counts: Int32[Array, "k k"] | Int64[np.ndarray, "k k"]) -> None:
        """Adds a matrix counted elsewhere, in a step or by another process.

        Raises:
          ValueError: the matrix is of another size.
        """
        if counts.shape != self._added.shape:
            raise ValueError(
                f"ConfusionTotal.add: got a matrix of shape {counts.shape}, expected "
                f"{self._added.shape}; count with num_classes={len(self._added)}"
            )
        self._added += np.asarray(counts, np.int64)

    def scores(self) -> "Scores":
        """Scores of all pixels so far."""
        return scores(self.counts)


@functools.partial(jax.jit, static_argnames=("ignore", "mesh"), donate_argnums=0)
def _accumulate(
    words: UInt32[Array, "2 k k"], labels: Array, predictions: Array, ignore: int, mesh: Mesh
) -> UInt32[Array, "2 k k"]:
    """Adds a batch to a matrix of 64-bit counts in two words, the low one first."""
    (axis,) = mesh.axis_names

    def count(labels: Array, predictions: Array) -> Array:
        matrix = confusion_matrix(labels, predictions, words.shape[1], ignore)
        return jax.lax.psum(matrix, axis)

    sharded = jax.shard_map(count, mesh=mesh, in_specs=P(axis), out_specs=P())
    low, high = words
    total = low + sharded(labels, predictions).astype(jnp.uint32)
    return jnp.stack([total, high + (total < low).astype(jnp.uint32)])


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """Scores of a confusion matrix, all in [0, 1]; NaN where there is no pixel to tell.

    Attributes:
      class_iou: intersection over union of every class; NaN for a class that neither labels nor predictions contain.
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
    labeled = matrix.sum(axis=1)
    class_iou = _ratio(correct, labeled + matrix.sum(axis=0) - correct)
    total = matrix.sum()
    weighted = float(np.sum(_ratio(labeled, total) * np.nan_to_num(class_iou)))
    return Scores(
        class_iou=class_iou,
        mean_iou=_mean_present(class_iou),
        pixel_accuracy=float(_ratio(correct.sum(keepdims=True), total)[0]),
        mean_accuracy=_mean_present(_ratio(correct, labeled)),
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


class BoundaryDensity:
    """Counts pixels that differ in label from their right or lower neighbor, and all, in two kinds of blocks.

    Attributes:
        counts: [edges, pixels] of [unmarked, marked] blocks.
    """

    def __init__(self, block_size: int) -> None:
        """For blocks of `block_size` pixels a side; nothing is counted yet."""
        self._block_size = block_size
        self.counts: Int[np.ndarray, "2 2"] = np.zeros((2, 2), np.int64)

    def add(self, labels: UInt8[np.ndarray, "n h w"], mask: Bool[np.ndarray, "n gh gw"]) -> None:
        """Counts the pixels of a batch whose marked blocks are True in `mask`."""
        valid = labels != IGNORE
        edge = np.zeros(labels.shape, bool)
        for here, ahead in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:, :, :-1], np.s_[:, :, 1:])):
            edge[here] |= (labels[here] != labels[ahead]) & valid[here] & valid[ahead]
        marked = mask.repeat(self._block_size, 1).repeat(self._block_size, 2)
        for kind, chosen in enumerate((~marked, marked)):
            self.counts[:, kind] += edge[chosen].sum(), valid[chosen].sum()


def boundary_ratio(counts: Int[np.ndarray, "2 2"]) -> float | None:
    """Density of boundary pixels in marked blocks over that in the others; None where there is none."""
    edges, pixels = counts
    if not (pixels.all() and edges[0]):
        return None
    unmarked, marked = edges / pixels
    return float(marked / unmarked)


def format_scores(scores: Scores, class_names: Sequence[str]) -> str:
    """A text table of the IoU of every class and their mean."""
    width = max(map(len, class_names)) + 2
    rows = [*zip(class_names, scores.class_iou, strict=True), ("mIoU", scores.mean_iou)]
    return "\n".join(f"{name:{width}}{value:7.2%}" for name, value in rows)
