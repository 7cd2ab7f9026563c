"""Reading of prepared records."""

import pathlib

from segblocks_jax.data.datasets import DATASETS
from segblocks_jax.data.decode import decode_checked, turn_to_label
from segblocks_jax.data.entry import Kind
from segblocks_jax.data.index import Index, damaged
from segblocks_jax.errors import extra

with extra("train", "a data set"):
    import tensorflow_datasets as tfds

# Builders of all data sets have one name; folders tell them apart.
NAME = "segblocks"


class Records:
    """Random access to splits of a prepared data set, one after the other.

    Decoded here and not by TFDS, which would turn palette labels into colors where OpenCV is installed.

    Attributes:
        index: of the whole data set.
        sizes: (height, width) of every image.
        skipped: why items of these splits were left out, one text each.
    """

    def __init__(self, name: str, folder: pathlib.Path, splits: tuple[str, ...]):
        """Opens the records of the data set `name`.

        Raises:
            InputError: they are damaged; says what, and what to do.
        """
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
        kind = DATASETS[name].labels
        self._label_kind: Kind = "ids" if kind == "colors" else kind

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
