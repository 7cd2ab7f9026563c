"""Evaluation of poses: PCKh, loss, operations, speed."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from segblocks_jax.data.pose.batches import PoseBatch, pose_batches
from segblocks_jax.data.pose.source import PoseSource
from segblocks_jax.ops import no_type_check
from segblocks_jax.systems.classifier.prediction import Prediction
from segblocks_jax.systems.classifier.predictor import Predictor, predict_batches
from segblocks_jax.tasks.pose.augmentation import PersonCrop
from segblocks_jax.tasks.pose.heatmaps import decode, targets
from segblocks_jax.tasks.pose.losses import heatmap_loss
from segblocks_jax.tasks.pose.metrics import Pckh, pckh

OnBatch = Callable[[PoseBatch, Prediction], None]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result on a whole set.

    Attributes:
        pckh: of all people.
        loss: mean loss of the heat maps that joints are taken from.
        gmacs: mean multiply-adds of a crop, in 10^9, of one pass.
        images_per_second: median over all batches but the first, from crops in host memory to heat maps there, both
            passes of a flip test; None for one batch.
        values: shares of executed operations.
    """

    pckh: Pckh
    loss: float
    gmacs: float
    images_per_second: float | None
    values: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rest = ("loss", "gmacs", "images_per_second")
        named = {name: getattr(self, name) for name in rest}
        return self.pckh.to_dict() | named | dict(self.values)

    def __str__(self) -> str:
        """The scores as a table."""
        lines = [f"{name:10}{share:7.2%}" for name, share in self.pckh.parts.items()]
        lines += [
            f"PCKh@0.5 {self.pckh.mean:.2%}, PCKh@0.1 {self.pckh.mean_strict:.2%}, loss {self.loss:.6f}"
            f" ({self.pckh.people} people)",
            f"GMACs per person: {self.gmacs:.4f}",
            f"executed share: {self.values.get('executed_share', 1.0):.4f}",
        ]
        if self.images_per_second is not None:
            lines.append(f"people/s: {self.images_per_second:.1f}")
        return "\n".join(lines)


@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Outputs:
    """What is kept of the n people of a set, in order.

    Attributes:
        found: (n, 16, 2) joints in the images.
        joints, visible, heads: the truth.
        losses: (n,).
        values: by name, (..., n).
        images_per_second: as in `Evaluation`.
    """

    found: Float[np.ndarray, "n 16 2"]
    joints: Float[np.ndarray, "n 16 2"]
    visible: Bool[np.ndarray, "n 16"]
    heads: Float[np.ndarray, "n 2 2"]
    losses: Float[np.ndarray, "n"]
    values: Mapping[str, np.ndarray]
    images_per_second: float | None

    def score(self) -> Pckh:
        """PCKh of all people."""
        return pckh(self.found, self.joints, self.visible, self.heads)


def predict_all(
    predictor: Predictor,
    source: PoseSource,
    crop: PersonCrop,
    batch_size: int,
    *,
    sigma: int,
    on_batch: OnBatch | None = None,
) -> Outputs:
    """Finds the joints of all people of a source; every process takes its share, and all get the whole.

    Args:
        predictor: of the modules.
        source: the people, with boxes of their heads.
        crop: brings them to the network's size.
        batch_size: people per batch.
        sigma: of the targets that the loss is for.
        on_batch: called after each batch of this process with the batch and its prediction.
    """

    def row(found: Prediction, batch: PoseBatch) -> dict[str, Any]:
        return _row(found, batch, crop.size, sigma)

    shard = jax.process_index(), jax.process_count()
    batches = pose_batches(source, crop, batch_size, shard)
    rows, rate = predict_batches(predictor, batches, row, on_batch)
    whole = jax.tree.map(lambda *arrays: np.concatenate(arrays), *rows)
    return Outputs(**whole, images_per_second=rate)


def _row(found: Prediction, batch: PoseBatch, size: tuple[int, int], sigma: int) -> dict[str, Any]:
    """Of the real people of a batch."""
    count, people = batch.count, batch.people
    heatmaps, label = np.asarray(found.logits)[:count], batch.label[:count]
    target, weight = targets(label[..., :2], label[..., 2], size, heatmaps.shape[1:3], sigma)
    losses = jax.vmap(lambda *x: heatmap_loss(*(a[None] for a in x)))(
        *map(jnp.asarray, (heatmaps, target, weight))
    )
    centers, scales = np.stack([p.center for p in people]), np.array([p.scale for p in people])
    return {
        "found": decode(heatmaps, centers, scales)[0],
        "joints": np.stack([p.joints for p in people]),
        "visible": np.stack([p.visible for p in people]),
        "heads": np.stack([p.head for p in people if p.head is not None]),
        "losses": np.asarray(losses),
        "values": {name: np.asarray(value)[:count] for name, value in found.values.items()},
    }
