"""Seams: how far a network in blocks is from the dense one at the borders of blocks, by padding mode.

    python -m segblocks_jax.systems.segblocks.seams --model=WORKDIR/export --data_dir=FOLDER

Options: --images=8, --output=FILE.

The weights are the same in every mode: they were trained with one of them.
"""

import argparse
import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8

from segblocks_jax.blocks import combine, split
from segblocks_jax.blocks.pad import PADDING_MODES
from segblocks_jax.data import SegmentationSource, normalize, open_dataset
from segblocks_jax.data.pipeline import fill_color
from segblocks_jax.errors import InputError, UserError
from segblocks_jax.exact import evenly_spaced
from segblocks_jax.interop import load_model, load_spec
from segblocks_jax.models import Network
from segblocks_jax.ops import no_type_check
from segblocks_jax.paths import expand
from segblocks_jax.systems.segblocks.spec import ModelSpec
from segblocks_jax.training.logging import write_json
from segblocks_jax.training.provenance import commit, device_name


@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Seams:
    """Differences of logits in blocks from dense ones, over the standard deviation of the dense ones.

    Attributes:
        maps: (n, h / 4, w / 4) mean over classes, by padding mode.
        distance: (h / 4, w / 4) of a pixel from the nearest border of two blocks, 0 for the pixels at it.
    """

    maps: dict[str, Float[np.ndarray, "n lh lw"]]
    distance: Int[np.ndarray, "lh lw"]

    def profile(self, mode: str) -> Float[np.ndarray, " d"]:
        """Mean difference by the distance from a border."""
        per_pixel = self.maps[mode].mean(0)
        count = np.bincount(self.distance.ravel())
        return np.bincount(self.distance.ravel(), per_pixel.ravel()) / np.maximum(count, 1)

    def at_borders(self, mode: str) -> float:
        """Mean difference of the pixels at borders."""
        return float(self.profile(mode)[0])


def measure(
    net: Network,
    image: Float[Array | np.ndarray, "n h w 3"],
    mask: Bool[np.ndarray, "n gh gw"],
    *,
    low_factor: int = 2,
) -> Seams:
    """Runs the same weights dense and in blocks, once with each padding mode.

    The network is in evaluation mode, and is not changed; the image is normalized; high blocks are True in `mask`.
    """
    copy: Any = nnx.clone(net)
    dense = np.asarray(_run(net, jnp.asarray(image)))
    blocks, maps = split(jnp.asarray(image), mask, low_factor=low_factor), {}
    for mode in PADDING_MODES:
        options: Any = {"padding": mode}
        copy.set_attributes(semantics=dataclasses.replace(net.semantics, **options))
        upsampled = combine(_run(copy, blocks), net.semantics.low_upsampling)
        maps[mode] = np.abs(np.asarray(upsampled) - dense).mean(-1) / dense.std()
    side = image.shape[1] // mask.shape[1] // net.output_stride
    return Seams(maps, border_distance(dense.shape[1:3], side))


def border_distance(size: tuple[int, int], side: int) -> Int[np.ndarray, "h w"]:
    """Pixels between each pixel and the nearest border of two blocks; the image's own is none.

    Example:
        >>> border_distance((1, 6), 2).tolist()
        [[1, 0, 0, 0, 0, 1]]
    """
    rows, columns = (_line_distance(length, side) for length in size)
    return np.minimum(rows[:, None], columns[None])


def _line_distance(length: int, side: int) -> Int[np.ndarray, " n"]:
    away = np.arange(length)[:, None] - np.arange(side, length, side)
    return np.where(away >= 0, away, -1 - away).min(1, initial=length)


def _run(net: Network, x: Any) -> Any:
    graphdef, state = nnx.split(net)
    return jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, x)


def padded_images(
    source: SegmentationSource, indices: Sequence[int], multiple: int
) -> UInt8[np.ndarray, "n h w 3"]:
    """Images, padded with their mean color to whole blocks, all as large as the largest."""
    images, fill = [source[i]["image"] for i in indices], fill_color(source)
    shapes = np.asarray([image.shape[:2] for image in images])
    height, width = -(-shapes.max(0) // multiple) * multiple
    padded = np.full((len(images), height, width, 3), fill, np.uint8)
    for place, image in zip(padded, images, strict=True):
        place[: image.shape[0], : image.shape[1]] = image
    return padded


def load_system(folder: str | os.PathLike[str]) -> tuple[nnx.Dict, ModelSpec]:
    """A saved model that has a policy, else a ValueError, and what describes it."""
    model, spec = load_model(folder), load_spec(folder)
    if not isinstance(model, nnx.Dict) or spec.policy is None:
        raise InputError(
            f"seams: {folder} has no policy, so no grid to run on; give one with blocks"
        )
    return model, spec


def normalized(spec: ModelSpec, images: UInt8[np.ndarray, "n h w 3"]) -> Float[Array, "n h w 3"]:
    """Images as the model of a spec takes them."""
    assert spec.mean is not None
    assert spec.std is not None
    return normalize(jnp.asarray(images), spec.mean, spec.std)


def compare(
    system: nnx.Dict, spec: ModelSpec, images: UInt8[np.ndarray, "n h w 3"]
) -> dict[str, Seams]:
    """Seams on two grids: all blocks high, where only borders differ, and the policy's own."""
    assert spec.policy is not None
    image = normalized(spec, images)
    own = np.asarray(system.policy(image, jax.random.key(0)).action)
    run = functools.partial(measure, system.net, image, low_factor=spec.policy.low_factor)
    return {"all high": run(np.ones_like(own)), "policy": run(own)}


def summary(seams: dict[str, Seams]) -> dict[str, Any]:
    """Numbers for JSON: by grid and mode, the mean difference at borders and by distance."""
    report: dict[str, Any] = {}
    for grid, found in seams.items():
        at = {mode: found.at_borders(mode) for mode in found.maps}
        report[grid] = {m: {"at_borders": at[m], "profile": found.profile(m)} for m in at}
        report[grid]["zero_over_block"] = at["zero"] / at["block"] if at["block"] else None
    return report


def main() -> None:
    """Measures a saved model on val images of its data set."""
    parser = argparse.ArgumentParser(prog="python -m segblocks_jax.systems.segblocks.seams")
    parser.add_argument("--model", required=True, help="folder of a saved model with a policy")
    parser.add_argument("--data_dir", help="folder of its data set")
    parser.add_argument("--images", type=int, default=8, help="how many, evenly spaced")
    parser.add_argument("--output", type=expand, help="JSON file to write")
    arguments = parser.parse_args()
    try:
        system, spec = load_system(arguments.model)
        if spec.dataset is None:
            raise InputError(f"{arguments.model} doesn't say which data it was trained on")
        source = open_dataset(spec.dataset, arguments.data_dir, "val")
    except UserError as error:
        parser.error(str(error))
    assert spec.policy is not None
    images = padded_images(
        source, evenly_spaced(len(source), arguments.images), spec.policy.block_size
    )
    report = summary(compare(system, spec, images))
    for grid, modes in report.items():
        line = ", ".join(f"{mode} {modes[mode]['at_borders']:.2e}" for mode in PADDING_MODES)
        ratio = modes["zero_over_block"]
        print(f"{grid}: {line}; zero over block {'unknown' if ratio is None else f'{ratio:.3g}'}")
    if arguments.output:
        made = {"commit": commit(), "device": device_name(), "jax": jax.__version__}
        data = {"split": f"{spec.dataset}/val", "images": len(images), "model": spec.to_dict()}
        write_json(arguments.output, {"grids": report, **data, **made})


if __name__ == "__main__":
    main()
