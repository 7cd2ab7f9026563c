"""Losses of networks with several heads: hard pixels (OHEM), boundaries, and what DDRNet and PIDNet sum of them.

Hard pixels are sorted, and edges counted, over all images that a call is given: those of one device.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from segblocks_jax.errors import InputError
from segblocks_jax.tasks.segmentation.labels import IGNORE
from segblocks_jax.tasks.segmentation.losses import cross_entropy_map, resize_logits, task_loss

Weights = Sequence[float] | Float[Array | np.ndarray, "k"]
AUXILIARY = 0.4
"""Weight of an auxiliary head's loss."""
_CERTAIN, _BOUNDARY = 0.8, 20.0  # PIDNet's constants.
_WIDTH, _MARGIN = 4, 6  # Pixels of PIDNet's boundaries, and at the image's border without any.


def ddrnet_loss(
    heads: Mapping[str, Float[Array, "n _h _w k"]],
    labels: Integer[Array, "n height width"],
    *,
    auxiliary: float = AUXILIARY,
) -> Float[Array, ""]:
    """Mean cross entropy of `main`, plus `auxiliary` times that of `extra`, over the pixels with a label.

    Args:
        heads: of `DDRNet.heads`, with `auxiliary`.
        labels: 255 is ignored.
        auxiliary: weight of the auxiliary head; the authors publish no training code.

    Raises:
        InputError: a head is missing.
    """
    main, extra = _heads("ddrnet_loss", heads, ("main", "extra"))
    losses = [task_loss(*cross_entropy_map(logits, labels)) for logits in (main, extra)]
    return losses[0] + auxiliary * losses[1]


def ohem_loss(
    loss_map: Float[Array, "n h w"],
    valid: Bool[Array, "n h w"],
    *,
    threshold: float = 0.9,
    keep: int = 131072,
    weights: Float[Array, "n h w"] | None = None,
) -> Float[Array, ""]:
    """Mean of the hard pixels of a batch: online hard example mining.

    With q the probabilities of the labels, ``exp(-loss_map)`` of the valid pixels, sorted up: the mean of
    ``weights * loss_map`` over the pixels with ``q < max(q[min(keep, count - 1)], threshold)``; 0 if none is.

    Args:
        loss_map: cross entropy of every pixel, in nats.
        valid: the pixels that have a label.
        threshold: pixels less probable than this are hard.
        keep: at least so many pixels are, if as many are valid.
        weights: of the pixels, such as their classes'; the mean is still by their number.

    Raises:
        InputError: a threshold outside [0, 1], or a negative `keep`.
    """
    if not 0 <= threshold <= 1 or keep < 0:
        raise InputError(
            f"ohem_loss: threshold is {threshold}, keep {keep}; expected a probability, and pixels, 0 or more"
        )
    probability = jnp.where(valid, jnp.exp(-jax.lax.stop_gradient(loss_map)), jnp.inf)
    last = jnp.maximum(jnp.sum(valid, dtype=jnp.int32) - 1, 0)
    least = jnp.sort(probability.reshape(-1))[jnp.minimum(last, keep)]
    hard = valid & (probability < jnp.maximum(least, threshold))
    losses = loss_map if weights is None else weights * loss_map
    return task_loss(losses, hard)


def boundary_loss(
    logits: Float[Array, "n h w"], boundary: Integer[Array, "n h w"] | Bool[Array, "n h w"]
) -> Float[Array, ""]:
    """Mean binary cross entropy of edges, which both kinds of pixels share alike.

    A pixel at an edge (1) weighs the share of the others (0) in the batch, and the other way round.
    """
    edge = boundary.astype(jnp.int32) == 1
    share = edge.mean(dtype=logits.dtype)
    cross_entropy = jax.nn.softplus(logits) - jnp.where(edge, logits, 0.0)
    return jnp.mean(jnp.where(edge, 1 - share, share) * cross_entropy)


def boundary_map(labels: Integer[Array, "n h w"]) -> Bool[Array, "n h w"]:
    """Where labels change: what `pidnet_loss` takes as boundary.

    An edge is a pixel whose label is not that of the one above or on the left; it is widened to 4 x 4 pixels. None
    lies within 6 pixels of the border. The authors widen the edges that Canny's detector finds in the labels.
    """
    edge = jnp.zeros(labels.shape, bool)
    edge = edge.at[:, 1:].set(labels[:, 1:] != labels[:, :-1])
    edge = edge.at[:, :, 1:].max(labels[:, :, 1:] != labels[:, :, :-1])
    _, h, w = labels.shape
    inner = np.zeros((1, h, w), bool)
    inner[:, _MARGIN : max(h - _MARGIN, 0), _MARGIN : max(w - _MARGIN, 0)] = True
    around = (0, 0), (_WIDTH // 2, _WIDTH // 2 - 1), (_WIDTH // 2, _WIDTH // 2 - 1)
    window = 1, _WIDTH, _WIDTH
    return jax.lax.reduce_window(edge & inner, False, jax.lax.bitwise_or, window, (1, 1, 1), around)


class PIDNetLoss(NamedTuple):
    """The parts of PIDNet's loss, weighted, and their sum."""

    total: Float[Array, ""]
    semantic: Float[Array, ""]
    boundary: Float[Array, ""]
    at_boundary: Float[Array, ""]


def pidnet_loss(
    heads: Mapping[str, Float[Array, "n _h _w _k"]],
    labels: Integer[Array, "n height width"],
    boundary: Integer[Array, "n height width"] | Bool[Array, "n height width"],
    *,
    class_weights: Weights | None = None,
    threshold: float = 0.9,
    keep: int = 131072,
) -> PIDNetLoss:
    """The authors' loss of PIDNet (arXiv 2206.02066, equation 5); logits are resized with corners aligned.

    With l(x) the cross entropy of a head, weighted by class, and 0 where ignored::

        semantic    = 0.4 * mean of l(p) over all pixels, also the ignored ones + ohem_loss(main)
        boundary    = 20 * boundary_loss(d, boundary)
        at_boundary = ohem_loss(main) of the pixels where sigmoid(d) > 0.8

    Args:
        heads: of `PIDNet.heads`, with `auxiliary`.
        labels: 255 is ignored.
        boundary: 1 at the edges of labels, 0 elsewhere; see `boundary_map`.
        class_weights: one per class; default: all 1.
        threshold: see `ohem_loss`.
        keep: see `ohem_loss`; both defaults are the authors' for Cityscapes.

    Raises:
        InputError: a head is missing, or class weights are not as many as classes.
    """
    detail, main, edges = _heads("pidnet_loss", heads, ("p", "main", "d"))
    detail_map, valid = cross_entropy_map(detail, labels, align_corners=True)
    main_map, _ = cross_entropy_map(main, labels, align_corners=True)
    weights = _weights(class_weights, main.shape[-1], labels).astype(main_map.dtype)
    edges = resize_logits(edges, (labels.shape[1], labels.shape[2]), align_corners=True)[..., 0]

    def hard(pixels: Array) -> Array:
        return ohem_loss(main_map, pixels, threshold=threshold, keep=keep, weights=weights)

    semantic = AUXILIARY * jnp.mean(weights * detail_map) + hard(valid)
    at_edges = _BOUNDARY * boundary_loss(edges, boundary)
    at_boundary = hard(valid & (jax.nn.sigmoid(edges) > _CERTAIN))
    return PIDNetLoss(semantic + at_edges + at_boundary, semantic, at_edges, at_boundary)


def _heads(name: str, heads: Mapping[str, Array], wanted: Sequence[str]) -> list[Array]:
    if set(wanted) - heads.keys():
        raise InputError(
            f"{name}: got the heads {', '.join(heads)}, expected {', '.join(wanted)}; build the network with"
            " auxiliary=True"
        )
    return [heads[head] for head in wanted]


def _weights(weights: Weights | None, classes: int, labels: Array) -> Array:
    given = jnp.ones(classes) if weights is None else jnp.asarray(weights, float)
    if given.shape != (classes,):
        raise InputError(f"pidnet_loss: {given.size} class_weights for {classes} classes")
    table = jnp.zeros(IGNORE + 1).at[:classes].set(given)
    return table[labels.astype(jnp.int32)]
