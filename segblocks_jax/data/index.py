"""The index beside prepared records: what they are without reading them, and whether they are whole."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

from segblocks_jax.errors import InputError

_INDEX = "index.json"


@dataclasses.dataclass
class Index:
    """What is known of a prepared data set without reading its records, by split.

    Attributes:
        sizes: (height, width) of every image, in order.
        skipped: why each item that is missing was left out.
        pixels: how many pixels have each stored id, 0 to 255.
        files: bytes of each file of the folder, by its path in there.
    """

    sizes: dict[str, list[Sequence[int]]] = dataclasses.field(default_factory=dict)
    skipped: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    pixels: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    files: dict[str, int] = dataclasses.field(default_factory=dict)

    def write(self, folder: pathlib.Path) -> None:
        """Writes it, with the sizes of the files that the folder holds by now."""
        self.files = _file_sizes(folder)
        (folder / _INDEX).write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def read(cls, folder: pathlib.Path) -> "Index":
        """Reads it, and compares the folder's files with it.

        Raises:
            InputError: a file is missing, or isn't what was written; the text names it.
        """
        try:
            index = cls(**json.loads((folder / _INDEX).read_text()))
            wanted = dict(index.files)
        except (OSError, ValueError, TypeError) as error:
            raise damaged(folder, folder / _INDEX, f"can't be read ({error})") from error
        found = _file_sizes(folder)
        for name, size in wanted.items():
            if found.get(name) != size:
                have = f"has {found[name]} of {size} bytes" if name in found else "is missing"
                raise damaged(folder, folder / name, have)
        return index


def _file_sizes(folder: pathlib.Path) -> dict[str, int]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def damaged(folder: pathlib.Path, path: pathlib.Path, reason: str) -> InputError:
    """The error that names a damaged file of prepared records, and the remedy."""
    return InputError(
        f"{path}: {reason}; these prepared records are damaged. Remove the folder {folder}: the data set is "
        "prepared again when it is next opened"
    )
