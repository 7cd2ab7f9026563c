"""Whether a data set's files have changed: by their content, which is read again where time stamps differ.

Prepared records lie in a folder named after the checksums of all source files, so that any edit leads to
another folder. The checksums of unpacked files are kept there with sizes and time stamps; those of
archives are in the archives.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from segblocks_jax.data.folders import Split
from segblocks_jax.data.store import File
from segblocks_jax.errors import InvalidInputError
from segblocks_jax.tasks.segmentation.labels import LabelTable

# Raised when records are written in another way, so that older ones are not taken for these.
_EDITION = 2
_SOURCES = "sources.json"


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """Of the files of a data set.

    Attributes:
        digest: of all names and contents and of the label table, 16 hexadecimal digits.
        checksums: [key, size, mtime, ctime, CRC-32] of every unpacked file.
        renewed: whether any of them had to be computed.
    """

    digest: str
    checksums: list[list]
    renewed: bool

    def save(self, folder: pathlib.Path) -> None:
        """Keeps the checksums, so that unchanged files needn't be read again."""
        path = folder / f"{_SOURCES}.new"
        path.write_text(json.dumps(self.checksums))
        path.replace(folder / _SOURCES)


def fingerprint(
    splits: Mapping[str, Split], table: LabelTable, earlier: Iterable[pathlib.Path]
) -> Fingerprint:
    """Computes it, without reading files that have the size and time stamps of an earlier preparation.

    Args:
        splits: of `find_splits`.
        table: of the stored ids.
        earlier: folders of prepared records.
    """
    known = {tuple(row[:4]): row[4] for folder in earlier for row in _saved(folder)}
    files = [
        (split, file)
        for split, content in splits.items()
        for pair in content.pairs
        for file in (pair.image, pair.label)
    ]
    new = {id: file for _, file in files if (id := _identity(file)) and id not in known}
    with ThreadPoolExecutor() as pool:
        known.update(zip(new, pool.map(_checksum, new.values()), strict=True))
    digest = hashlib.sha256(bytes([_EDITION]) + table.to_train.tobytes() + table.known.tobytes())
    for split, file in files:
        checksum = known[id] if (id := _identity(file)) else _checksum(file)
        digest.update(f"{split} {file.key} {file.size} {checksum}\n".encode())
    for content in splits.values():
        digest.update("\n".join(message.split(":")[0] for message in content.lonely).encode())
    ids = dict.fromkeys(id for _, file in files if (id := _identity(file)))
    checksums = [[*id, known[id]] for id in ids if known[id] is not None]
    return Fingerprint(digest.hexdigest()[:16], checksums, bool(new))


def _identity(file: File) -> tuple | None:
    return None if file.stamp is None else (file.key, file.size, *file.stamp)


def _checksum(file: File) -> int | None:
    try:
        return file.crc32()
    except InvalidInputError:  # Preparation says so, or leaves the file out.
        return None


def _saved(folder: pathlib.Path) -> list[list]:
    with contextlib.suppress(OSError, ValueError):
        rows = json.loads((folder / _SOURCES).read_text())
        if isinstance(rows, list) and all(isinstance(r, list) and len(r) == 5 for r in rows):
            return rows
    return []
