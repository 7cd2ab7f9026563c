"""Losses of segmentation, a pixel, a block or an image at a time, and their means.

An ignored pixel (label 255) has loss 0 in every map. Whether it also counts in a mean is the caller's choice,
`ignored`: "excluded" divides by the valid pixels only, "counted" by all of them, as the authors of SegBlocks do.

Labels other than `ignore` that lie outside [0, classes) are the data layer's error to catch: their
values are not known when a step is traced, and here they give a wrong loss, silently.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

Ignored = Literal["excluded", "counted"]


def resize_logits(
    logits: Float[Array, "n h w k"], size: tuple[int, int], *, align_corners: bool = False
) -> Float[Array, "n height width k"]:
    """Resizes logits bilinearly to `size`, (height, width) in pixels, in float32 or wider.

    `F.interpolate(..., mode="bilinear", align_corners=align_corners)` in PyTorch: half-pixel centers, edges
    clamped, no antialiasing; or, with `align_corners`, the centers of the corner pixels stay where they are.
    """
    logits = logits.astype(np.promote_types(logits.dtype, np.float32))
    n, h, w, k = logits.shape
    if (h, w) == tuple(size):
        return logits
    if align_corners:
        rows, columns = (
            jnp.asarray(_between_corners(*lengths), logits.dtype)
            for lengths in ((h, size[0]), (w, size[1]))
        )
        highest = jax.lax.Precision.HIGHEST
        return jnp.einsum("ih,jw,nhwk->nijk", rows, columns, logits, precision=highest)
    return jax.image.resize(logits, (n, *size, k), method="bilinear", antialias=False)


def _between_corners(length: int, target: int) -> np.ndarray:
    """The matrix of linear interpolation from `length` points to `target`, ends on ends."""
    position = np.arange(target) * ((length - 1) / max(target - 1, 1))
    distance = np.abs(position[:, None] - np.arange(length))
    return np.maximum(1 - distance, 0)


@jax.named_scope("loss")
def cross_entropy_map(
    logits: Float[Array, "n h w k"],
    labels: Integer[Array, "n height width"],
    ignore: int = 255,
    *,
    align_corners: bool = False,
) -> tuple[Float[Array, "n height width"], Bool[Array, "n height width"]]:
    """Cross entropy of every pixel, with the logits resized to the labels' size first.

    `loss = logsumexp(resized) - resized[label]`, in nats.

    Args:
      logits: unnormalized log-probabilities, at any resolution and in any float type.
      labels: class of every pixel, in [0, k) or `ignore`; see the module's docstring for others.
      ignore: the label of pixels to leave out.
      align_corners: how logits are resized, see `resize_logits`.

    Returns:
      The loss in float32 or wider, 0 where ignored, and a mask that is True where the pixel is valid.

    Raises:
      ValueError: the two arrays hold different numbers of images.
    """
    if logits.shape[0] != labels.shape[0]:
        raise ValueError(
            f"cross_entropy_map: logits hold {logits.shape[0]} images {logits.shape}, but labels "
            f"{labels.shape[0]} {labels.shape}; pass logits and labels of the same batch"
        )
    labels = labels.astype(jnp.int32)
    valid = labels != ignore
    size = labels.shape[1], labels.shape[2]
    resized = resize_logits(logits, size, align_corners=align_corners)
    classes = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    # A comparison, not a gather: the gradient is then no scatter, and the whole line fuses.
    chosen = labels[..., None] == classes[None, None, None, :]
    picked = jnp.sum(jnp.where(chosen, resized, 0.0), axis=-1)
    loss = jax.nn.logsumexp(resized, axis=-1) - picked
    return jnp.where(valid, loss, 0.0), valid


@jax.named_scope("loss")
def task_loss(
    loss_map: Float[Array, "n h w"], valid: Bool[Array, "n h w"], *, ignored: Ignored = "excluded"
) -> Float[Array, ""]:
    """Mean of a loss map: over its valid pixels, or over all when ignored pixels are "counted".

    Zero when no pixel is valid. On a shard of a batch this is the mean of that shard; where shards
    differ in valid pixels, the mean of their "excluded" means is not that of the whole batch.

    Raises:
      ValueError: `ignored` is neither "excluded" nor "counted".
    """
    _check_ignored("task_loss", ignored)
    total = jnp.sum(jnp.where(valid, loss_map, 0.0))
    if ignored == "counted":
        return total / loss_map.size
    return total / jnp.maximum(jnp.sum(valid, dtype=jnp.int32), 1).astype(loss_map.dtype)


@jax.named_scope("loss")
def bootstrapped_loss(
    loss_map: Float[Array, "n h w"],
    valid: Bool[Array, "n h w"] | None = None,
    k: int = 4096,
    threshold: float = 0.3,
) -> Float[Array, ""]:
    """Mean of the hard pixels of every image, then the mean over images.

    With the losses of an image sorted down, `s`: the mean of all losses above `threshold` if
    `s[k] > threshold`, else the mean of `s[:k]`. An image of at most `k` pixels takes them all.

    Args:
      loss_map: cross entropy of every pixel, 0 where ignored.
      valid: where given, ignored pixels never enter a mean: an image with fewer than `k` valid
        pixels averages those. Without it they count as losses of 0, as the authors have it.
      k: the least number of pixels that an image gives.
      threshold: a loss above which a pixel is hard, in nats.

    Raises:
      ValueError: `k` is less than 1, or `threshold` is negative.
    """
    if k < 1:
        raise ValueError(f"bootstrapped_loss: k is {k}, expected at least 1; 4096 is the default")
    if threshold < 0:
        raise ValueError(
            f"bootstrapped_loss: threshold is {threshold}, expected at least 0, because ignored "
            "pixels have loss 0; 0.3 is the default"
        )
    losses = loss_map.reshape(loss_map.shape[0], -1)
    if valid is not None:
        losses = jnp.where(valid.reshape(losses.shape), losses, 0.0)
    pixels = losses.shape[1]
    hardest = jax.lax.top_k(losses, min(k + 1, pixels))[0]

    above = losses > threshold
    count = jnp.maximum(jnp.sum(above, axis=1, dtype=jnp.int32), 1).astype(losses.dtype)
    mean_above = jnp.sum(jnp.where(above, losses, 0.0), axis=1) / count
    if valid is None:
        taken = jnp.full((losses.shape[0],), min(k, pixels), losses.dtype)
    else:
        valid_pixels = jnp.sum(valid, axis=(1, 2), dtype=jnp.int32)
        taken = jnp.clip(valid_pixels, 1, k).astype(losses.dtype)
    mean_first = jnp.sum(hardest[:, :k], axis=1) / taken
    if pixels <= k:
        return jnp.mean(mean_first)
    return jnp.mean(jnp.where(hardest[:, k] > threshold, mean_above, mean_first))


@jax.named_scope("loss")
def block_mean(
    loss_map: Float[Array, "n h w"],
    valid: Bool[Array, "n h w"],
    grid_shape: tuple[int, int],
    *,
    ignored: Ignored = "excluded",
) -> tuple[Float[Array, "n gh gw"], Bool[Array, "n gh gw"]]:
    """Mean loss of every block of a grid of `grid_shape` = (gh, gw) equal blocks.

    Returns:
      The means, and a mask of the blocks that have one. With "excluded", a block without a valid pixel has mean 0 and
      False; with "counted", ignored pixels are losses of 0 and every block has a mean.

    Raises:
      ValueError: the map is no multiple of the grid, or `ignored` is not one of the two words.
    """
    _check_ignored("block_mean", ignored)
    n, h, w = loss_map.shape
    gh, gw = grid_shape
    if gh < 1 or gw < 1 or h % gh or w % gw:
        raise ValueError(
            f"block_mean: loss_map of {h}x{w} pixels does not divide into a grid of {gh}x{gw} "
            "blocks; pad or resize image and labels to a multiple of the block size"
        )
    shape = (n, gh, h // gh, gw, w // gw)
    total = jnp.sum(jnp.where(valid, loss_map, 0.0).reshape(shape), axis=(2, 4))
    if ignored == "counted":
        return total / (shape[2] * shape[4]), jnp.ones((n, gh, gw), jnp.bool_)
    count = jnp.sum(valid.reshape(shape), axis=(2, 4), dtype=jnp.int32)
    return total / jnp.maximum(count, 1).astype(total.dtype), count > 0


def _check_ignored(operation: str, ignored: str) -> None:
    if ignored not in get_args(Ignored):
        raise ValueError(
            f'{operation}: ignored is {ignored!r}, expected "excluded" (mean over valid pixels) '
            'or "counted" (mean over all pixels, ignored ones as loss 0)'
        )
