"""Prediction on files: the joints of the person in each picture, as JSON and drawn."""

import pathlib
from collections.abc import Callable
from typing import Any

from segblocks_jax.data import images
from segblocks_jax.inference.files import Picture
from segblocks_jax.paths import check_writable
from segblocks_jax.systems.classifier.predict import (
    PREDICTIONS,
    Draw,
    Find,
    Save,
    find_in_pictures,
)
from segblocks_jax.systems.dynconv_pose.engine import Engine
from segblocks_jax.tasks.pose.joints import MPII
from segblocks_jax.tasks.pose.pictures import draw_pose
from segblocks_jax.training.logging import write_json


def predict_inputs(
    load: Callable[[], Any],
    engine_of: Callable[[Any], Engine],
    draw_of: Callable[[Any], Draw | None],
    source: str,
    output: pathlib.Path,
    *,
    max_pixels: int = images.MAX_PIXELS,
) -> int:
    """Finds the joints in an image, a video, or all of a folder; writes `predictions.json` and pictures.

    Each picture is taken to show one person, and little else.

    Args:
        load: gives the trained modules; called where there is an input.
        engine_of: gives what finds joints by the modules.
        draw_of: gives what draws masks over an image, if there are any.
        source: file or folder.
        output: folder of the results.
        max_pixels: larger images are refused, here and in the rest of the process.

    Returns:
        The exit code, 1 where a picture could not be read.

    Raises:
        FileNotFoundError: there is no input.
        UnwritableError: `output` can't be written.
    """
    output = check_writable(output)

    def prepare(save: Save) -> Find:
        modules = load()
        engine, draw = engine_of(modules), draw_of(modules)
        return lambda pictures: [_find(engine, draw, picture, save) for picture in pictures]

    records, failed = find_in_pictures(prepare, source, output, max_pixels=max_pixels)
    write_json(output / PREDICTIONS, {"joints": list(MPII), "pictures": records})
    print(f"joints of {len(records)} pictures found, {failed} failed; results in {output}")
    return 1 if failed else 0


def _find(engine: Engine, draw: Draw | None, picture: Picture, save: Save) -> dict[str, Any]:
    image = picture.image
    assert image is not None
    found = engine([image])
    drawn = {"pose": draw_pose(image, found.joints[0], found.scores[0])}
    save(picture, drawn | ({} if draw is None else dict(draw(image))))
    return {
        "file": str(picture.file),
        "frame": picture.frame,
        "joints": found.joints[0].tolist(),
        "scores": found.scores[0].tolist(),
        "seconds": found.seconds,
    }
