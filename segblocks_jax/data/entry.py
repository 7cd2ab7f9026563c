"""What an entry of the registry of data sets says."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

from segblocks_jax.data.normalization import Normalization
from segblocks_jax.data.store import Store
from segblocks_jax.tasks.segmentation.labels import LabelTable

Kind = Literal["image", "ids", "palette", "colors"]
"""What a file holds: RGB; a channel of label ids; the same, perhaps as palette indices; labels in colors."""


@dataclasses.dataclass(frozen=True)
class Folder:
    """Where the images or the labels of a split lie: files `pattern` below `path`.

    A file's key, by which images and labels find each other, is its name without `ending`, which
    is one of several for images of different formats. `keep` says which keys belong to the split.
    """

    path: str
    pattern: str
    endings: tuple[str, ...]
    keep: Callable[[str], bool] = lambda key: True


@dataclasses.dataclass(frozen=True)
class Dataset:
    """All that is known of a data set.

    Attributes:
        name: its name for `open_dataset`.
        family: data sets of a family have one entry point, and may lie in a folder of the family's name.
        splits: that it may have.
        expected: one line that says what its folder must hold.
        folders: (store, split) -> folders of images and labels.
        table: that its stored ids follow; None where only a file of the data set tells.
        read_table: store -> the table, where a file of the data set may tell another.
        normalization: of its images.
        labels: the kind of its label files.
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
    normalization: Normalization
    read_table: Callable[[Store], LabelTable] | None = None
    labels: Kind = "ids"
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    origin: str = ""
    url: str | None = None
    sha256: str | None = None
    generate: Callable[[pathlib.Path, Any], pathlib.Path] | None = None

    def table_of(self, store: Store) -> LabelTable:
        """The label table of the data set in a store."""
        if self.read_table is not None:
            return self.read_table(store)
        assert self.table is not None
        return self.table
