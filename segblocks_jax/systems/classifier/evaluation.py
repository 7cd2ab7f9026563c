"""Evaluation of a system that classifies images: accuracies, loss, operations, speed."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int

from segblocks_jax.data.classification.batches import ClassBatch, class_batches
from segblocks_jax.data.classification.source import ClassSource
from segblocks_jax.ops import no_type_check
from segblocks_jax.systems.classifier.prediction import Prediction
from segblocks_jax.systems.classifier.predictor import Predictor, predict_batches
from segblocks_jax.tasks.classification.augmentation import CenterCrop
from segblocks_jax.tasks.classification.losses import cross_entropy
from segblocks_jax.tasks.classification.metrics import Accuracy, ranks

OnBatch = Callable[[ClassBatch, Prediction], None]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result on a whole set.

    Attributes:
        accuracy: of the answers.
        loss: mean cross-entropy of the answers, in nats.
        gmacs: mean multiply-adds an image, in 10^9.
        images_per_second: median over all batches but the first, from images in host memory to logits there; None
            for one batch.
        exits: accuracies of all exits, in their order; empty without exits.
        values: means of `Prediction.values`, and what a system adds.
        class_names: of the accuracies.
    """

    accuracy: Accuracy
    loss: float
    gmacs: float
    images_per_second: float | None
    exits: tuple[Accuracy, ...]
    values: Mapping[str, float]
    class_names: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: `top1`, `top5`, `top1_exit1` and so on, `loss`, `gmacs`, and the values."""
        exits = {f"top1_exit{i}": exit.top1 for i, exit in enumerate(self.exits, 1)}
        rest = ("loss", "gmacs", "images_per_second")
        named = {name: getattr(self, name) for name in rest}
        return self.accuracy.to_dict() | named | exits | dict(self.values)

    def __str__(self) -> str:
        """The scores as a table; the classes too, where they are few."""
        lines = []
        if len(self.class_names) <= 20:
            width = max(map(len, self.class_names))
            per_class = zip(self.class_names, self.accuracy.per_class, strict=True)
            lines += [f"{name:{width}}  {share:6.1%}" for name, share in per_class]
        lines.append(
            f"top-1 {self.accuracy.top1:.2%}, top-5 {self.accuracy.top5:.2%}, loss {self.loss:.4f}"
            f" ({self.accuracy.images} images)"
        )
        lines += [f"exit {i}: top-1 {exit.top1:.2%}" for i, exit in enumerate(self.exits, 1)]
        lines.append(f"GMACs per image: {self.gmacs:.4f}")
        lines += [f"{name}: {value:.4f}" for name, value in self.values.items()]
        if self.images_per_second is not None:
            lines.append(f"images/s: {self.images_per_second:.1f}")
        return "\n".join(lines)


@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Outputs:
    """What is kept of the n images of a set, in order.

    Attributes:
        labels: (n,).
        ranks: (n,) classes ahead of the label, see `metrics.ranks`.
        losses: (n,) cross-entropies.
        exit_ranks: (exits, n).
        values: by name, (n, ...).
        logits: (exits, n, k), or (1, n, k) without exits, where they were asked for; else None.
        images_per_second: as in `Evaluation`.
    """

    labels: Int[np.ndarray, "n"]
    ranks: Int[np.ndarray, "n"]
    losses: Float[np.ndarray, "n"]
    exit_ranks: Int[np.ndarray, "e n"]
    values: Mapping[str, np.ndarray]
    logits: Float32[np.ndarray, "e n k"] | None
    images_per_second: float | None


def predict_all(
    predictor: Predictor,
    source: ClassSource,
    crop: CenterCrop,
    batch_size: int,
    *,
    keep_logits: bool = False,
    on_batch: OnBatch | None = None,
) -> Outputs:
    """Predicts all images of a source; every process takes its share, and all get the whole.

    Args:
        predictor: of the modules.
        source: the images.
        crop: brings them to the network's size.
        batch_size: images per batch.
        keep_logits: whether to keep the logits, of all exits.
        on_batch: called after each batch of this process with the batch and its prediction.
    """

    def row(found: Prediction, batch: ClassBatch) -> dict[str, Any]:
        return _row(found, batch, keep_logits)

    shard = jax.process_index(), jax.process_count()
    batches = class_batches(source, crop, batch_size, shard)
    rows, rate = predict_batches(predictor, batches, row, on_batch)
    whole = jax.tree.map(lambda *arrays: np.concatenate(arrays, -1), *rows)
    logits = [whole.pop("logits").transpose(0, 2, 1)] if keep_logits else [None]
    return Outputs(**whole, logits=logits[0], images_per_second=rate)


def _row(found: Prediction, batch: ClassBatch, keep_logits: bool) -> dict[str, Any]:
    """Of the real images of a batch; images are the last axis."""
    count = batch.count
    labels = batch.label[:count]
    every = [np.asarray(logits)[:count] for logits in (found.logits, *found.exits)]
    rank = [ranks(logits, labels) for logits in every]
    row = {
        "labels": labels,
        "ranks": rank[0],
        "losses": np.asarray(cross_entropy(jnp.asarray(every[0]), jnp.asarray(labels))),
        "exit_ranks": np.reshape(rank[1:], (len(found.exits), count)),
        "values": {
            name: np.moveaxis(np.asarray(value)[:count], 0, -1)
            for name, value in found.values.items()
        },
    }
    if keep_logits:
        row["logits"] = np.stack(every[1:] or every[:1]).transpose(0, 2, 1)
    return row


def summarize(
    outputs: Outputs, gmacs: float, class_names: tuple[str, ...], more: Mapping[str, float] = {}
) -> Evaluation:
    """The scores of a set; `gmacs` an image, `more` values of the system's own beside the means of its values."""
    classes = len(class_names)
    means = {name: float(np.mean(v)) for name, v in outputs.values.items() if v.ndim == 1}
    return Evaluation(
        accuracy=Accuracy.of(outputs.ranks, outputs.labels, classes),
        loss=float(outputs.losses.astype(np.float64).mean()),
        gmacs=gmacs,
        images_per_second=outputs.images_per_second,
        exits=tuple(Accuracy.of(rank, outputs.labels, classes) for rank in outputs.exit_ranks),
        values=means | dict(more),
        class_names=class_names,
    )
