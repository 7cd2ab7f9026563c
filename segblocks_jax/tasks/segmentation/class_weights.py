"""Weights of classes in the cross entropy, for classes that have few pixels."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from segblocks_jax.errors import InputError

MEDIAN_FREQUENCY, CAMVID = "median_frequency", "camvid"
NAMES = (MEDIAN_FREQUENCY, CAMVID)
"""`CAMVID` has the numbers that SegNet's authors computed of CamVid's training labels, for its 11 classes."""

# Sky, building, pole, road, pavement, tree, sign symbol, fence, car, pedestrian, bicyclist.
# Source: SegNet (arXiv 1511.00561), the loss layer of its published CamVid network.
_CAMVID = (0.2595, 0.1826, 4.5640, 0.1417, 0.9051, 0.3826, 9.6446, 1.8418, 0.6823, 6.2478, 7.3614)


def median_frequency(pixels: Sequence[int], images: Sequence[int]) -> Float[np.ndarray, "k"]:
    """Median-frequency balancing: of class c, median(f) / f_c with f_c its mean pixels in an image that has it.

    Args:
        pixels: of each class, over a whole split.
        images: how many images have the class. They count as equally large.

    Returns:
        A weight per class; 1 for a class that is in no image, which the median leaves out, too.

    Source: Eigen & Fergus (arXiv 1411.4734), section 6.2.
    """
    counts, present = np.asarray(pixels, np.float64), np.asarray(images) > 0
    frequency = counts / np.maximum(images, 1)
    if not present.any():
        return np.ones_like(frequency)
    median = np.median(frequency[present])
    return np.where(present, median / np.where(present, frequency, 1.0), 1.0)


def class_weights(
    text: str | None,
    classes: tuple[str, ...],
    count: Callable[[], tuple[Sequence[int], Sequence[int]]],
) -> tuple[float, ...] | None:
    """A weight per class, None for None.

    Args:
        text: see `parse_weights`.
        classes: names.
        count: gives what `median_frequency` takes; called where it is asked for.

    Raises:
        InputError: a bad text, or not as many numbers as classes.
    """
    if text is None:
        return None
    weights = parse_weights(text) or tuple(median_frequency(*count()).tolist())
    if len(weights) != len(classes):
        raise InputError(
            f"class weights are {text!r}, {len(weights)} numbers; expected one for each of {len(classes)} classes:"
            f" {', '.join(classes)}"
        )
    return weights


def parse_weights(text: str) -> tuple[float, ...] | None:
    """The numbers of "camvid", or of "0.5,1,2"; None for "median_frequency", which asks for the labels.

    Raises:
        InputError: none of these, or a number that is negative or not finite.
    """
    if text == MEDIAN_FREQUENCY:
        return None
    if text == CAMVID:
        return _CAMVID
    try:
        weights = tuple(map(float, text.split(",")))
    except ValueError:
        weights = ()
    if not weights or not all(0 <= w < math.inf for w in weights) or not any(weights):
        raise InputError(
            f"class weights are {text!r}; expected {' or '.join(map(repr, NAMES))}, or numbers of 0 or more, one"
            " per class, such as '0.5,1,2'"
        )
    return weights
