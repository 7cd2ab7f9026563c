"""quantize: measures what a trained model needs to be served in int8."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Shaped

from segblocks_jax.blocks import BlockGrid, split
from segblocks_jax.data.normalization import normalize
from segblocks_jax.errors import InputError
from segblocks_jax.inference.fused import FusedNet, fuse
from segblocks_jax.inference.ranges import measure
from segblocks_jax.inference.server import check_images
from segblocks_jax.models import Network
from segblocks_jax.nn import scaled_size
from segblocks_jax.systems.segblocks.engine import Engine
from segblocks_jax.systems.segblocks.spec import ModelSpec


def quantize(
    model: Network | nnx.Dict,
    spec: ModelSpec,
    images: Shaped[np.ndarray, "..."] | Sequence[Shaped[np.ndarray, "..."]],
    *,
    keep: Sequence[str] = (),
) -> ModelSpec:
    """Measures the ranges of a network's values, with which an engine serves it in int8.

    The model stays as it is. The ranges are part of the spec that is returned, and saved and loaded with it:
    ``sb.Engine(model, sb.quantize(model, spec, images), dtype="int8")``.

    Args:
        model: trained, as for `Engine`.
        spec: of the model, with mean and std.
        images: (n, h, w, 3), or (h, w, 3) of each, uint8 RGB like those to come; 16 to 64 of the training set will
            do. Each runs as a whole and, of a model with a policy, in blocks, of which the policy's target runs high.
        keep: paths of convolutions that stay in float32, such as "backbone.conv1"; of all that begin so.

    Raises:
        TypeError, ValueError: no images, images that are not uint8 of three channels, a network that can't be fused
            (see `Engine`), values that are not finite, or a path in `keep` that is none.
    """
    images = list(images)
    if not images:
        raise InputError(
            "quantize: there are no calibration images; give some, 16 to 64 of the training set"
        )
    for image in images:
        check_images(np.asarray(image)[None])
    engine = Engine(model, dataclasses.replace(spec, quantization=None))
    net = model.net if isinstance(model, nnx.Dict) else model
    fused = fuse(net)
    if not isinstance(fused, FusedNet):
        raise InputError("quantize: traced networks (sb.in_blocks) don't run in int8")
    ranges = measure(fused, _inputs(engine, images))
    if unknown := [name for name in keep if not any(_within(layer, name) for layer in ranges)]:
        raise InputError(f"quantize: keep has {unknown}; expected some of {sorted(ranges)}")
    chosen = {k: v for k, v in ranges.items() if not any(_within(k, name) for name in keep)}
    return dataclasses.replace(spec, quantization=chosen)


def _within(layer: str, name: str) -> bool:
    return f"{layer}.".startswith(f"{name}.")


def _inputs(engine: Engine, images: Sequence[np.ndarray]) -> Iterator[Any]:
    """What the network sees of each image: the whole of it, and blocks."""
    for image in images:
        padded = engine.pad(image[None], engine.shape_for((1, *image.shape[:2])))
        normalized = normalize(padded, *engine.model_programs.normalization)
        size = scaled_size(padded.shape[1:3], engine.spec.input_scale)
        yield jax.image.resize(normalized, (1, *size, 3), "linear", antialias=True)
        policy = engine.spec.policy
        if policy is not None and engine.block_size is not None:
            mask = engine(padded, mode=f"share={policy.target}").mask
            assert mask is not None
            yield split(normalized, BlockGrid.from_mask(mask, low_factor=policy.low_factor))
