"""Files of results: names that overwrite nothing, and PNGs that are recognized as results."""

import collections
import itertools
import os
import pathlib
import re
import unicodedata

import numpy as np
from jaxtyping import UInt8
from PIL import Image, PngImagePlugin

KINDS = ("labels", "overlay", "grid", "side_by_side")
"""Of a file's results, each the ending of its name."""
_FRAME = re.compile(rf"/frame_\d+_({'|'.join(KINDS)})\.png$")
_ONE_PAGE = (".jpg", ".jpeg", ".bmp")  # Others may need a folder for frames.
_LONGEST = 255 - len("_side_by_side.png")  # In bytes; what most file systems take.
_MARK = "segblocks_jax predict"  # As "Software" in every PNG that `save_result` writes.


def save_result(
    path: pathlib.Path | str,
    pixels: UInt8[np.ndarray, "h w *c"],
    palette: UInt8[np.ndarray, "k 3"] | None = None,
) -> None:
    """Saves a result as PNG, marked so that `is_result` knows it from an input; makes folders as needed."""
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(palette.tobytes())
    mark = PngImagePlugin.PngInfo()
    mark.add_text("Software", _MARK)
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "PNG", pnginfo=mark)


def is_result(file: pathlib.Path) -> bool:
    """Whether `save_result` wrote it."""
    try:
        with Image.open(file) as image:
            return image.info.get("Software") == _MARK
    except Exception:  # What is wrong is said when it is read.
        return False


def name_results(files: list[pathlib.Path], output: pathlib.Path) -> dict[pathlib.Path, str]:
    """A name for each file, so that its results overwrite no other's, and no input.

    The file's stem where no other file has it; else its folders and suffix, too; else with a number.
    """
    whole = {file: pathlib.Path(os.path.abspath(file)) for file in files}
    root = os.path.commonpath([path.parent for path in whole.values()])
    stems = collections.Counter(fold(file.stem) for file in whole)
    taken = _inputs_inside(output.resolve(), [path.resolve() for path in whole.values()])
    names: dict[pathlib.Path, str] = {}
    for file in sorted(whole, key=lambda file: stems[fold(file.stem)] > 1):
        joined = "_".join(whole[file].relative_to(root).parts)
        simple = [file.stem] if stems[fold(file.stem)] == 1 else []
        numbered = (f"{file.stem[:50]}_{i}" for i in itertools.count(2))
        for name in itertools.chain(simple, [joined], numbered):
            written = {fold(f"{name}_{kind}.png") for kind in KINDS}
            if file.suffix.lower() not in _ONE_PAGE:
                written.add(fold(name))
            if not written & taken and len(os.fsencode(name)) <= _LONGEST:
                break
        names[file] = name
        taken |= written
    return names


def _inputs_inside(output: pathlib.Path, files: list[pathlib.Path]) -> set[str]:
    """The inputs in the folder of the results, and folders in which they look like frames' results."""
    inside = [file.relative_to(output).as_posix() for file in files if output in file.parents]
    return {fold(name) for path in inside for name in (path, _FRAME.sub("", path))}


def fold(name: str) -> str:
    """A form that is equal for names that some file systems take for one."""
    return unicodedata.normalize("NFC", name).casefold()
