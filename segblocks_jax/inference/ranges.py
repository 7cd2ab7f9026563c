"""Ranges of a network's values, measured on images, for its int8 form."""

from collections.abc import Iterable

import jax
import numpy as np
from jaxtyping import Array, Float

from segblocks_jax.errors import InputError
from segblocks_jax.inference.fused import FusedNet
from segblocks_jax.inference.quantized import Bytes, Ranges
from segblocks_jax.nn.regions import Maps

_SAMPLES = 1 << 13  # Of each value and image.
_MOST_SAMPLES = 1 << 17
_SHARES = np.linspace(1, 0.2, 41)


def measure(net: FusedNet, inputs: Iterable[Maps]) -> Ranges:
    """Ranges of all values of a network in float32, on its inputs, of which there must be one at least.

    Of the ranges that are a share of the measured one, each has that whose bytes have the smallest squared error.

    Raises:
        InputError: a value isn't finite.
    """
    seen: dict[tuple[str, str], list[tuple[np.ndarray, ...]]] = {}
    for x in inputs:
        for name, values in jax.device_get(_summary(net, x)).items():
            for which, value in values.items():
                seen.setdefault((name, which), []).append(value)
    ranges: dict[str, dict[str, tuple[float, float]]] = {}
    for (name, which), parts in seen.items():
        lowest, highest, samples = zip(*parts, strict=True)
        ends = float(np.min(lowest)), float(np.max(highest))
        if not np.isfinite(ends).all():
            raise InputError(
                f"quantize: the {which} of {name} has values that are not finite on the calibration images;"
                " is the model trained?"
            )
        ranges.setdefault(name, {})[which] = _best(ends[0], ends[1], np.concatenate(samples))
    return ranges


@jax.jit
def _summary(net: FusedNet, x: Maps) -> dict[str, dict[str, tuple[Array, Array, Array]]]:
    def of(pixels: Float[Array, "p c"]) -> tuple[Array, Array, Array]:
        step = -(-pixels.size // _SAMPLES) | 1  # Odd, so that not one column of the image is taken.
        return pixels.min(), pixels.max(), pixels[::step].reshape(-1)

    return jax.tree.map(of, net.observed(x))


def _best(lowest: float, highest: float, samples: np.ndarray) -> tuple[float, float]:
    samples = samples[:: -(-samples.size // _MOST_SAMPLES)]

    def error(share: float) -> float:
        kept = Bytes.of(lowest * share, highest * share)
        whole = np.clip(np.rint(samples / kept.scale) + kept.zero, 0, 255)
        return float(np.square((whole - kept.zero) * kept.scale - samples).mean())

    share = min(_SHARES, key=error)
    return float(lowest * share), float(highest * share)
