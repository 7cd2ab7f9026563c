"""Prediction on image files: label maps, overlays and the policy's grid as PNG."""

import collections
import os
import pathlib

import numpy as np
from flax import nnx
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from segblocks_jax.analysis import pictures
from segblocks_jax.data import LabelTable, Normalisation, pad_to_multiple
from segblocks_jax.inference.runner import Prediction, Runner
from segblocks_jax.training.config import ExperimentConfig
from segblocks_jax.training.logging import Progress

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def image_files(path: pathlib.Path) -> list[pathlib.Path]:
    """The image itself, or all images of a folder and its subfolders, sorted.

    Raises:
        FileNotFoundError: no such path, or a folder without images.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such image or folder")
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise FileNotFoundError(f"{path}: no images ({', '.join(SUFFIXES)}) in this folder")
    return files


def predict_files(
    system: nnx.Dict,
    config: ExperimentConfig,
    normalisation: Normalisation,
    table: LabelTable,
    files: list[pathlib.Path],
    output: pathlib.Path,
) -> list[tuple[pathlib.Path, str]]:
    """Segments image files of any size; writes `NAME_labels.png`, `NAME_overlay.png`, `NAME_grid.png`.

    Label PNGs hold train ids, with the data set's palette; they have the image's size. A file that
    can't be read doesn't stop the others.

    Returns:
        The files that failed, with the reason.
    """
    runner = Runner(system, config, normalisation)
    stems = collections.Counter(file.stem for file in files)
    root = os.path.commonpath([file.parent for file in files])
    failed = []
    with Progress("predict", len(files), images_per_step=1) as progress:
        for done, file in enumerate(files, 1):
            try:
                image = read_image(file)
            except (OSError, ValueError) as error:
                failed.append((file, str(error)))
            else:
                padded = pad_to_multiple(image, runner.multiple, normalisation.fill)
                # Equal stems keep their folders and suffixes, so that no result overwrites another.
                unique = stems[file.stem] == 1
                name = file.stem if unique else "_".join(file.relative_to(root).parts)
                _write(output / name, image, padded, runner(padded[None]), table)
            progress.update(done)
    return failed


def read_image(file: pathlib.Path) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image as RGB.

    Raises:
        ValueError: not an image, or a broken one.
        OSError: unreadable.
    """
    try:
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"can't read this image ({error}); is the file complete?") from error


def _write(
    stem: pathlib.Path,
    image: UInt8[np.ndarray, "h w 3"],
    padded: UInt8[np.ndarray, "ph pw 3"],
    prediction: Prediction,
    table: LabelTable,
) -> None:
    height, width = image.shape[:2]
    labels = prediction.labels[0, :height, :width]
    stem.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(labels, "L")
    picture.putpalette(table.colours.tobytes())
    picture.save(f"{stem}_labels.png")
    pictures.save_png(f"{stem}_overlay.png", pictures.overlay(image, labels, table.colours))
    if prediction.mask is not None and prediction.scores is not None:
        probabilities = 1 / (1 + np.exp(-prediction.scores[0].astype(np.float64)))
        grid = pictures.draw_grid(padded, prediction.mask[0], probabilities)
        pictures.save_png(f"{stem}_grid.png", grid[:height, :width])
