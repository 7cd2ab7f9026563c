"""Whether a data set's files have changed: by their content, which is read again where time stamps differ.

Prepared records lie in a folder named after the checksums of all source files, so that any edit leads to
another folder. The checksums of unpacked files are kept there with sizes and time stamps; those of
archives are in the archives.
"""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from segblocks_jax.data.folders import Split
from segblocks_jax.data.store import File
from segblocks_jax.errors import InputError
from segblocks_jax.tasks.segmentation.labels import LabelTable

# Raised when records are written in another way, so that older ones are not taken for these.
_EDITION = 2
_SOURCES = "sources.json"


class Fingerprint:
    """Of the files of a data set; doesn't read those that have the size and time stamps of an earlier preparation.

    Attributes:
        digest: of all names and contents and of the label table, 16 hexadecimal digits.
        renewed: whether any checksum had to be computed.
    """

    def __init__(
        self, splits: Mapping[str, Split], table: LabelTable, earlier: Iterable[pathlib.Path]
    ):
        """Computes it of `find_splits`' result and the table of ids; `earlier` are folders of records."""
        known = {tuple(row[:4]): row[4] for folder in earlier for row in _saved(folder)}
        files = [
            (split, file, file.stamp and (file.key, file.size, *file.stamp))
            for split, content in splits.items()
            for pair in content.pairs
            for file in (pair.image, pair.label)
        ]
        new = {id: file for _, file, id in files if id and id not in known}
        with ThreadPoolExecutor() as pool:
            known.update(zip(new, pool.map(_checksum, new.values()), strict=True))
        text = "".join(
            f"{split} {file.key} {file.size} {known[id] if id else _checksum(file)}\n"
            for split, file, id in files
        )
        lonely = [line.split(":")[0] for content in splits.values() for line in content.lonely]
        parts = bytes([_EDITION]), table.to_train.tobytes(), table.known.tobytes()
        whole = b"".join((*parts, text.encode(), "\n".join(lonely).encode()))
        self.digest, self.renewed = hashlib.sha256(whole).hexdigest()[:16], bool(new)
        self._checksums = [[*id, known[id]] for _, _, id in files if id and known[id] is not None]

    def save(self, folder: pathlib.Path) -> None:
        """Keeps the checksums beside the records, so that unchanged files needn't be read again."""
        path = folder / f"{_SOURCES}.new"
        path.write_text(json.dumps(self._checksums))
        path.replace(folder / _SOURCES)


def _checksum(file: File) -> int | None:
    try:
        return file.crc32()
    except InputError:  # Preparation says so, or leaves the file out.
        return None


def _saved(folder: pathlib.Path) -> list[list]:
    with contextlib.suppress(OSError, ValueError):
        rows = json.loads((folder / _SOURCES).read_text())
        if isinstance(rows, list) and all(isinstance(r, list) and len(r) == 5 for r in rows):
            return rows
    return []
