"""Prepared records: which files they were made from, what they hold, whether they are whole, reading them.

They lie in a folder named after the checksums of all source files, so that any edit leads to another
folder. The checksums of unpacked files are kept there with sizes and time stamps, so that only files with
other ones are read again; those of archives are in the archives.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from segblocks_jax.data.dataset import Dataset, Kind
from segblocks_jax.data.folders import Split
from segblocks_jax.data.images import decode_checked, turn_to_label
from segblocks_jax.data.normalization import Normalization
from segblocks_jax.data.store import File
from segblocks_jax.errors import InputError, extra

# Builders of all data sets have one name; folders tell them apart.
NAME = "segblocks"
# Raised when records are written in another way, so that older ones are not taken for these.
_EDITION = 2
_INDEX = "index.json"
_SOURCES = "sources.json"


@dataclasses.dataclass
class Index:
    """What is known of a prepared data set without reading its records, by split.

    Attributes:
        sizes: (height, width) of every image, in order.
        skipped: why each item that is missing was left out.
        pixels: how many pixels have each stored id, 0 to 255.
        values: how many have each value, 0 to 255, of red, green and blue, if that was counted.
        files: bytes of each file of the folder, by its path in there.
    """

    sizes: dict[str, list[Sequence[int]]] = dataclasses.field(default_factory=dict)
    skipped: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    pixels: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    values: dict[str, list[list[int]]] = dataclasses.field(default_factory=dict)
    files: dict[str, int] = dataclasses.field(default_factory=dict)

    def write(self, folder: pathlib.Path) -> None:
        """Writes it, with the sizes of the files that the folder holds by now."""
        self.files = _file_sizes(folder)
        (folder / _INDEX).write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def read(cls, folder: pathlib.Path) -> "Index":
        """Reads it; raises InputError, naming the file, where one is missing or not what was written."""
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

    def normalization(self, split: str) -> Normalization:
        """Mean and standard deviation over all pixels of a split's images, exact up to the last rounding.

        The deviation is 1 where all pixels are equal.
        """
        moments = []
        for counts in self.values[split]:
            n, first, second = (
                sum(v**k * count for v, count in enumerate(counts)) for k in range(3)
            )
            moments.append((first / n / 255, math.sqrt(n * second - first**2) / n / 255 or 1.0))
        mean, std = zip(*moments, strict=True)
        return Normalization(mean, std)


def _file_sizes(folder: pathlib.Path) -> dict[str, int]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def damaged(folder: pathlib.Path, path: pathlib.Path, reason: str) -> InputError:
    """The error that names a damaged file of prepared records, and the remedy."""
    return InputError(
        f"{path}: {reason}; these prepared records are damaged. Remove the folder {folder}: the data set is "
        "prepared again when it is next opened"
    )


class Fingerprint:
    """A `digest` of files and what is made of them, 16 hexadecimal digits; `renewed` if any file was read for it.

    Files that have the size and time stamps of an earlier preparation aren't read.
    """

    def __init__(self, splits: Mapping[str, Split], recipe: bytes, earlier: Iterable[pathlib.Path]):
        """Computes it of `find_splits`' result and `Dataset.recipe`; `earlier` are folders of records."""
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
        whole = b"".join((bytes([_EDITION]), recipe, text.encode(), "\n".join(lonely).encode()))
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


class Records:
    """Random access to splits of a prepared data set, one after the other.

    Decoded here and not by TFDS, which would turn palette labels into colors where OpenCV is installed.

    `index` is that of the whole data set, `sizes` has (height, width) of every image, and `skipped` says why items
    of these splits were left out, one text each.
    """

    def __init__(self, dataset: Dataset, folder: pathlib.Path, splits: tuple[str, ...]):
        """Opens the records of a data set; an InputError says what is damaged, and what to do."""
        with extra("train", "a data set"):
            import tensorflow_datasets as tfds

        self._folder = folder
        self.index = Index.read(folder)
        skip = tfds.decode.SkipDecoding()
        try:
            builder = tfds.builder_from_directory(next(folder.glob(f"{NAME}/*")))
            self._source = builder.as_data_source(
                "+".join(splits), decoders={"image": skip, "label": skip}
            )
        except Exception as error:  # Of TFDS, protobuf, or the C++ of array records.
            raise damaged(folder, folder, f"can't be opened ({error})") from error
        self.sizes = [(h, w) for split in splits for h, w in self.index.sizes[split]]
        self.skipped = [text for split in splits for text in self.index.skipped[split]]
        self._label_kind: Kind = dataset.labels if dataset.codes is None else "ids"

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict:
        try:
            record = self._source[index]
            name = record["name"].decode()
            image = decode_checked(record["image"], "image", name)
            label = decode_checked(record["label"], self._label_kind, name)
            image = turn_to_label(image, record["image"], label)
        except Exception as error:  # As above; and records that were cut come as None.
            raise damaged(self._folder, self._folder, f"record {index} ({error})") from error
        return {"image": image, "label": label, "name": name}
