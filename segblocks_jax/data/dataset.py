"""What is known of a data set: where its files lie, what labels mean, how to normalize, where to get it."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

from segblocks_jax.data.normalization import Normalization
from segblocks_jax.data.store import File, Store
from segblocks_jax.tasks.segmentation.labels import LabelCodes, LabelTable

Kind = Literal["image", "ids", "palette", "numbers", "colors"]
"""What a file holds: RGB; label ids; ids or palette indices; ids of up to 16 bits; labels in colors."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclasses.dataclass(frozen=True)
class Folder:
    """Where the images or the labels of a split lie: files `pattern` below `path`.

    A file's key, by which images and labels find each other, is its name without `ending`, which
    is one of several for images of different formats. `keep` says which keys belong to the split.
    `files` are those files by key, where a list names them.
    """

    path: str
    pattern: str
    endings: tuple[str, ...]
    keep: Callable[[str], bool] = lambda key: True
    files: Mapping[str, File] | None = None


@dataclasses.dataclass(frozen=True)
class Dataset:
    """All that is known of a data set.

    Attributes:
        name: its name for `open_dataset`.
        family: data sets of a family have one entry point, and may lie in a folder of the family's name.
        splits: that it may have.
        expected: one line that says what its folder must hold.
        folders: (store, split) -> folders of images and labels.
        table: that its ids follow; None where only a file of the data set tells.
        normalization: of its images; None where it is that of the train images, which preparation counts.
        read: (entry, store) -> the entry with what a file of the data set tells; see `of`.
        labels: the kind of its label files.
        codes: what label files hold in place of ids; prepared records hold ids.
        counts: images of the published splits.
        origin: where to get it.
        url: of an archive that anybody may download, if there is one.
        sha256: of that archive, in hexadecimal, if its publisher tells it.
        generate: (folder, scenes or None) -> the data set's folder, below `folder`, for one that is drawn.
    """

    name: str
    family: str
    splits: tuple[str, ...]
    expected: str
    folders: Callable[[Store, str], tuple[Folder, Folder]]
    table: LabelTable | None
    normalization: Normalization | None
    read: Callable[["Dataset", Store], "Dataset"] | None = None
    labels: Kind = "ids"
    codes: LabelCodes | None = None
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    origin: str = ""
    url: str | None = None
    sha256: str | None = None
    generate: Callable[[pathlib.Path, Any], pathlib.Path] | None = None

    def of(self, store: Store) -> "Dataset":
        """The data set in a store, with its table; raises InputError where a file that should tell it doesn't."""
        return self if self.read is None else self.read(self, store)

    @property
    def known_table(self) -> LabelTable:
        """The table of a data set as `of` gives it."""
        assert self.table is not None
        return self.table

    @property
    def recipe(self) -> bytes:
        """What prepared records depend on beside the files."""
        table, codes = self.known_table, self.codes
        coded = () if codes is None else (self.labels.encode(), codes.values, codes.ids)
        measured = (b"measured",) if self.normalization is None else ()
        return b"".join(map(bytes, (table.to_train, table.known, *coded, *measured)))
