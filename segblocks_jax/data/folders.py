"""Image/label pairs of a data set: found, checked, counted; half a data set is refused.

Every check here happens before anything is kept, so each error can promise that nothing was written.
"""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
from absl import logging
from jaxtyping import Int

from segblocks_jax.data.dataset import Dataset, Folder
from segblocks_jax.data.images import decode, encode_ids, file_orientation, turn_to_label
from segblocks_jax.data.store import File, Store
from segblocks_jax.errors import InputError, MissingFileError
from segblocks_jax.exact import exact

MAX_SKIPPED = 0.01
"""The share of a split that `on_error="skip"` may leave out."""
_NAMED = 5  # How many files an error names.


@dataclasses.dataclass(frozen=True)
class Pair:
    """An image file with its label file; `name` identifies the pair within its split."""

    name: str
    image: File
    label: File


@dataclasses.dataclass(frozen=True)
class Split:
    """The pairs of a split, sorted by name, and the files that have no counterpart."""

    pairs: list[Pair]
    lonely: list[str]


class Problems:
    """What is wrong with items of a split: the first one raises, or all are logged and left out, with `messages`."""

    def __init__(self, on_error: str, name: str, split: Split):
        """Begins with the split's files without a counterpart; `on_error` is "raise" or "skip"."""
        self.messages: list[str] = []
        self._skip, self._split = on_error == "skip", name
        self._total = len(split.pairs) + len(split.lonely)
        for message in split.lonely:
            self.add(message)

    def add(self, message: str) -> None:
        """Leaves an item out; raises ValueError if that isn't allowed, or more than `MAX_SKIPPED` would be."""
        if not self._skip:
            raise InputError(f"{message} Nothing was written.")
        logging.warning("left out of split %s: %s", self._split, message)
        self.messages.append(message)
        if len(self.messages) > exact(MAX_SKIPPED) * self._total:
            raise InputError(
                f"split {self._split!r}: {len(self.messages)} of {self._total} items are bad, and "
                f'on_error="skip" leaves out at most {MAX_SKIPPED:.0%}; the last: {message} '
                "Nothing was written."
            )


def find_splits(dataset: Dataset, store: Store) -> dict[str, Split]:
    """Finds the image/label pairs of every split that the store holds.

    Raises FileNotFoundError where all splits are missing, or one of a split's two folders; ValueError for an empty
    folder, or two files of the same name.
    """
    remedy = f"A {dataset.name} folder holds {dataset.expected}. Nothing was written."
    found = {}
    for split in dataset.splits:
        folders = dataset.folders(store, split)
        missing = [f.path for f in folders if f.files is None and not store.has(f.path)]
        if len(missing) == 1:
            raise MissingFileError(
                f"{store.describe(missing[0])}: missing for split {split!r}. {remedy}"
            )
        if not missing:
            found[split] = _pair_up(store, *folders)
    if not found:
        origin = f" Get {dataset.origin}." if dataset.origin else ""
        raise MissingFileError(
            f"{store.describe('')}: holds none of the splits {dataset.splits}. {remedy}{origin}"
        )
    return found


def _files(store: Store, folder: Folder) -> dict[str, File]:
    if folder.files is not None:
        return dict(sorted(folder.files.items()))
    found: dict[str, File] = {}
    for file in store.files(folder.path, folder.pattern):
        name = file.key.rpartition("/")[2]
        ending = next((e for e in folder.endings if name.lower().endswith(e.lower())), None)
        if ending is None or name.startswith("."):
            continue
        key = name[: -len(ending)]
        if key in found:
            raise InputError(
                f"{file.where} and {found[key].where} have the same name; remove one of them. "
                "Nothing was written."
            )
        if folder.keep(key):
            found[key] = file
    if not found:
        raise InputError(
            f"{store.describe(folder.path)}: holds no file {folder.pattern} ending in "
            f"{' or '.join(folder.endings)}; unpack the data set completely. Nothing was written."
        )
    return dict(sorted(found.items()))


def _pair_up(store: Store, image_folder: Folder, label_folder: Folder) -> Split:
    images, labels = _files(store, image_folder), _files(store, label_folder)
    lonely = []
    for kind, have, other, folder in (
        ("image", images, labels, label_folder),
        ("label", labels, images, image_folder),
    ):
        without = [file for key, file in have.items() if key not in other]
        names = [file.key.rpartition("/")[2] for file in without[:_NAMED]]
        more = ", ..." if len(without) > _NAMED else ""
        such = f": {', '.join(names)}{more}" if len(without) > 1 else ""
        lonely += [
            f"{file.where}: this {kind} has no counterpart in {store.describe(folder.path)} "
            f"({len(without)} such{such}); unpack the data set completely or remove it."
            for file in without
        ]
    pairs = [Pair(key, file, labels[key]) for key, file in images.items() if key in labels]
    return Split(pairs, lonely)


@dataclasses.dataclass(frozen=True, eq=False)
class Checked:
    """What a pair holds.

    Attributes:
        size: (height, width).
        pixels: how many have each stored id.
        values: how many of the image's pixels have each value, of red, green and blue; None where nobody asks.
        label: the label's ids as a PNG, where its file holds codes of them.
    """

    size: tuple[int, int]
    pixels: Int[np.ndarray, "256"]
    values: Int[np.ndarray, "3 256"] | None
    label: bytes | None


def check_pair(pair: Pair, dataset: Dataset) -> Checked:
    """Decodes both files of a pair.

    A ValueError names a file that is unreadable, not a label of the kind, of another size, turned in two possible
    ways, or with ids that the table doesn't know.
    """
    content = pair.image.read()
    image = decode(content, "image", pair.image.where)
    label = decode(pair.label.read(), dataset.labels, pair.label.where)
    height, width, _ = turn_to_label(image, content, label).shape
    if label.shape[:2] != (height, width):
        raise InputError(
            f"{pair.label.where}: the label is {label.shape[1]}x{label.shape[0]} but its image "
            f"{pair.image.where} is {width}x{height}; take both from the same release."
        )
    turned = file_orientation(content)
    if turned > 1 and (turned < 5 or height == width):
        raise InputError(
            f"{pair.image.where}: its EXIF orientation is {turned}, and the label {pair.label.where} fits the "
            "image as stored and as shown; save the image upright, without that tag."
        )
    codes, encoded, values = dataset.codes, None, None
    if codes is not None:
        label = codes.decode(label, pair.label.where)
        encoded = encode_ids(label)
    dataset.known_table.train_ids(label, pair.label.where)
    if dataset.normalization is None:
        channels = image.reshape(-1, 3).T
        values = np.stack([np.bincount(channel, minlength=256) for channel in channels])
    pixels = np.bincount(label.reshape(-1), minlength=256)
    return Checked((height, width), pixels, values, encoded)


def check_counts(
    dataset: Dataset, found: Mapping[str, Split], splits: Iterable[str] | None = None
) -> list[str]:
    """What a data set lacks of its published splits, or of those given: a line each, none if it is complete."""
    have = {split: len(found[split].pairs) if split in found else 0 for split in dataset.counts}
    return [
        f"{split}: {have[split]} of {count} images; get {dataset.origin}"
        for split, count in dataset.counts.items()
        if have[split] != count and (splits is None or split in splits)
    ]
