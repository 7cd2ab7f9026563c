"""A close look at one trained run: pictures of single images, seams, time and memory of its parts."""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import UInt8

from segblocks_jax.analysis.parts import measure_parts
from segblocks_jax.analysis.records import Record, run_folder
from segblocks_jax.data import SegmentationSource
from segblocks_jax.systems.segblocks import seams
from segblocks_jax.systems.segblocks.engine import Engine
from segblocks_jax.tasks.segmentation import pictures
from segblocks_jax.tasks.segmentation.labels import IGNORE

_RIGHT, _WRONG = (0, 114, 178), (230, 159, 0)  # Okabe and Ito's blue and orange.


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
    """Input, ground truth, prediction, errors, and the grid with the probabilities of high blocks."""
    item, table = source[number], source.table
    image, label = item["image"], item["label"]
    result = engine(image[None])
    assert result.labels is not None
    assert result.mask is not None
    predicted = result.labels[0]
    padded = seams.padded_images(source, [number], engine.multiple)[0]
    scores = result.scores[0] if engine.learned and result.scores is not None else None
    shown = pictures.panels(padded, predicted, table.colors, result.mask[0], scores)
    wrong = np.where(predicted == label, 0, 1).astype(np.uint8)
    wrong[label == IGNORE] = IGNORE
    row = [
        image,
        pictures.colorize(label, table.colors),
        shown["labels"],
        pictures.colorize(wrong, np.asarray([_RIGHT, _WRONG])),
        list(shown.values())[-1],
    ]
    titles = ["input", "ground truth", "prediction", "errors: orange", "high blocks: orange"]
    return pictures.side_by_side(row, titles)
