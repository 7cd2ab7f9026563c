"""Files of results: names that overwrite nothing, PNGs known as results, and records of what is done."""

import collections
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, PngImagePlugin

from segblocks_jax.errors import InputError
from segblocks_jax.paths import whole_file

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
    """Saves a result as PNG, whole or not at all, marked so that `is_result` knows it from an input."""
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(palette.tobytes())
    mark = PngImagePlugin.PngInfo()
    mark.add_text("Software", _MARK)
    with whole_file(pathlib.Path(path)) as file:
        image.save(file, "PNG", pnginfo=mark)


def is_result(file: pathlib.Path) -> bool:
    """Whether `save_result` wrote it."""
    try:
        with Image.open(file) as image:
            return image.info.get("Software") == _MARK
    except Exception:  # What is wrong is said when it is read.
        return False


@dataclasses.dataclass(frozen=True)
class Job:
    """A file to segment, and where its results go.

    Attributes:
        file: image or video.
        stem: path that the results' names begin with.
        origin: what the results depend on, for JSON: the file with its size and time, and the settings.
    """

    file: pathlib.Path
    stem: pathlib.Path
    origin: Mapping[str, Any]

    @classmethod
    def of(cls, file: pathlib.Path, stem: pathlib.Path, settings: Mapping[str, Any]) -> "Job":
        """A job of the file as it is now."""
        try:
            stat = file.stat()
            found = {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}
        except OSError:  # Whoever reads it says what is wrong.
            found = {}
        origin = {"file": os.path.realpath(file), **found, **settings}
        return cls(file, stem, json.loads(json.dumps(origin)))  # As a record gives it back.

    @property
    def record(self) -> pathlib.Path:
        """The file that says that all results are there."""
        return pathlib.Path(f"{self.stem}_result.json")

    def is_done(self) -> bool:
        """Whether all results are there, of this file as it is now, by these settings."""
        try:
            record = json.loads(self.record.read_text(encoding="utf-8"))
            files = (name for picture in record["pictures"] for name in picture["files"])
            return record["origin"] == self.origin and all(
                (self.stem.parent / name).is_file() for name in files
            )
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def forget(self) -> None:
        """Removes the record, before results are replaced."""
        with contextlib.suppress(OSError):
            self.record.unlink()

    def finish(self, pictures: list[dict[str, Any]]) -> None:
        """Writes the record: of each picture the names of its `files`, and what is known of it."""
        text = json.dumps({"origin": self.origin, "pictures": pictures}, indent=2)
        with whole_file(self.record) as file:
            file.write_text(text + "\n", encoding="utf-8")


def make_jobs(
    files: Sequence[pathlib.Path], output: pathlib.Path, settings: Mapping[str, Any] | None = None
) -> list[Job]:
    """A job for each file, with results in a folder; `settings` are what these depend on beside the file."""
    names = name_results(list(files), output)
    return [Job.of(file, output / names[file], settings or {}) for file in files]


def parse_shard(text: str) -> tuple[int, int]:
    """Reads I/N, the I-th of N parts, from 1; raises InputError."""
    number, _, count = text.partition("/")
    if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
        return int(number), int(count)
    raise InputError(
        f"shard is {text!r}; expected I/N with I from 1 to N, such as 1/4, 2/4, 3/4 and 4/4"
    )


def name_results(
    files: list[pathlib.Path], output: pathlib.Path, kinds: Sequence[str] = KINDS
) -> dict[pathlib.Path, str]:
    """A name for each file, so that its results overwrite no other's, and no input.

    The file's stem where no other file has it; else its folders and suffix, too; else with a number. `kinds` are the
    endings of results' names.
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
            written = {fold(f"{name}_{kind}.png") for kind in kinds}
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
