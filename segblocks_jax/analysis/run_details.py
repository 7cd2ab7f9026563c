"""A close look at one trained run: pictures of single images, seams, time and memory of its parts."""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float, UInt8

from segblocks_jax.analysis.parts import measure_parts
from segblocks_jax.analysis.records import Record, run_folder
from segblocks_jax.data import SegmentationSource
from segblocks_jax.systems.segblocks import seams
from segblocks_jax.systems.segblocks.engine import Engine
from segblocks_jax.tasks.segmentation import pictures


@dataclasses.dataclass(frozen=True, eq=False)
class RunDetails:
    """What `inspect_run` found.

    Each of `panels` is input, ground truth, prediction, errors and grid of an image in a row; `images` are those
    whose `seams` were compared by grid, uint8, padded to whole blocks; `parts` see `measure_parts`.
    """

    panels: list[UInt8[np.ndarray, "_ _ 3"]]
    images: UInt8[np.ndarray, "n h w 3"]
    seams: dict[str, seams.Seams]
    parts: dict[str, dict[str, float]]


def inspect_run(
    runs: pathlib.Path, record: Record, source: SegmentationSource, chosen: Sequence[int]
) -> RunDetails:
    """Looks at a run with a policy, and at images of its evaluation split by their numbers `chosen`."""
    folder = run_folder(runs, record["key"]) / "export"
    system, spec = seams.load_system(folder)
    assert spec.policy is not None
    images = seams.padded_images(source, chosen, spec.policy.block_size)
    engine = Engine(system, spec)
    found = seams.compare(system, spec, images)
    image = seams.normalized(spec, images[:1])
    mask = system.policy(image, jax.random.key(0)).action
    return RunDetails(
        panels=[panels(engine, source, number) for number in chosen],
        images=images,
        seams=found,
        parts=measure_parts(system, image, mask, low_factor=spec.policy.low_factor),
    )


def panels(engine: Engine, source: SegmentationSource, number: int) -> UInt8[np.ndarray, "h w 3"]:
    """The pictures of `columns` in a row."""
    shown = columns(engine, source, number)
    return pictures.side_by_side(list(shown.values()), list(shown))


def columns(
    engine: Engine,
    source: SegmentationSource,
    number: int,
    gain: Float[np.ndarray, "gh gw"] | None = None,
) -> dict[str, UInt8[np.ndarray, "h w 3"]]:
    """Input, ground truth, prediction, errors, and the grid with a learned policy's probabilities; by title.

    With the `gain` of every block at high resolution, see `resolution_gain`, that is drawn as well.
    """
    item, table = source[number], source.table
    image, label = item["image"], item["label"]
    result = engine(image[None])
    assert result.labels is not None
    predicted, (height, width) = result.labels[0], label.shape
    padded = seams.padded_images(source, [number], engine.multiple)[0]
    shown = {
        "input": image,
        "ground truth": pictures.colorize(label, table.colors),
        "prediction": pictures.colorize(predicted, table.colors),
        "errors: orange": pictures.draw_errors(predicted, label),
    }
    if result.mask is not None:
        scores = result.scores[0] if engine.learned and result.scores is not None else None
        *_, shown["high blocks: orange"] = pictures.panels(
            padded, predicted, table.colors, result.mask[0], scores
        ).values()
    if gain is not None:
        drawn = pictures.draw_gain(padded, gain)[:height, :width]
        shown["gain of high blocks: orange, of low: blue"] = drawn
    return shown
