"""TFDS builders for unpacked data sets. Preparing and reading work without TensorFlow.

A record holds the image's and the label's files as they are on disk (nothing is re-encoded) and
the pair's name; stored ids become train ids when read. Records keep the order of the names.
"""

import io
import os
import pathlib
import shutil
import tempfile
from typing import ClassVar

import tensorflow_datasets as tfds

from segblocks_jax.data.folders import LAYOUTS, Pair, check_pair, decode, find_pairs
from segblocks_jax.data.labels import LabelTable


class _PairsBuilder(  # type: ignore[call-arg]
    tfds.core.GeneratorBasedBuilder, skip_registration=True
):
    """Image/label pairs found by the layout whose name is `layout`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "Image and label files as published."}
    layout: str
    title: str
    homepage: str

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self):
        return f"Unpack {self.title}: {LAYOUTS[self.layout].expected} ({self.homepage})."

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.title}, images with stored label ids.",
            homepage=self.homepage,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.Image(shape=(None, None, 1)),
                    "name": tfds.features.Text(),
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        root, layout = pathlib.Path(dl_manager.manual_dir), LAYOUTS[self.layout]
        table = layout.table(root)
        found = find_pairs(layout, root)
        return {split: self._generate_examples(pairs, table) for split, pairs in found.items()}

    def _generate_examples(self, pairs: list[Pair], table: LabelTable):
        for pair in pairs:
            check_pair(pair, table)
            yield (
                pair.name,
                {
                    "image": os.fspath(pair.image),
                    "label": os.fspath(pair.label),
                    "name": pair.name,
                },
            )


class SegblocksCityscapes(_PairsBuilder):
    """Cityscapes, fine annotations, and everything written in its layout."""

    layout = "cityscapes"
    title = "Cityscapes (leftImg8bit and gtFine)"
    homepage = "https://www.cityscapes-dataset.com"


class SegblocksCamvid(_PairsBuilder):
    """CamVid with 11 classes and void."""

    layout = "camvid"
    title = "CamVid with 11 classes"
    homepage = "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid"


class SegblocksMapillary(_PairsBuilder):
    """Mapillary Vistas."""

    layout = "mapillary"
    title = "Mapillary Vistas"
    homepage = "https://www.mapillary.com/dataset/vistas"


BUILDERS = {b.layout: b for b in (SegblocksCityscapes, SegblocksCamvid, SegblocksMapillary)}


def prepare(layout: str, root: pathlib.Path, folder: pathlib.Path) -> None:
    """Prepares a data set as array records, in one piece: `folder` appears complete or not at all.

    Args:
        layout: name of the layout.
        root: the unpacked data set.
        folder: TFDS data folder to create.

    Raises:
        ValueError, FileNotFoundError: what `find_pairs` and `check_pair` raise.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = pathlib.Path(tempfile.mkdtemp(prefix=".preparing-", dir=folder.parent))
    try:
        builder = BUILDERS[layout](data_dir=work / "data", file_format="array_record")
        builder.download_and_prepare(
            download_dir=work / "downloads",
            download_config=tfds.download.DownloadConfig(manual_dir=root),
        )
        try:
            (work / "data").rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster: same contents
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


class Records:
    """Random access to one split of a prepared data set, decoded with Pillow.

    TFDS would decode with OpenCV where that is installed, which turns palette labels into colours.
    """

    def __init__(self, layout: str, folder: pathlib.Path, split: str):
        skip = tfds.decode.SkipDecoding()
        builder = BUILDERS[layout](data_dir=folder, file_format="array_record")
        self._source = builder.as_data_source(split, decoders={"image": skip, "label": skip})

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict:
        record = self._source[index]
        name = record["name"].decode()
        return {
            "image": decode(io.BytesIO(record["image"]), "RGB", name),
            "label": decode(io.BytesIO(record["label"]), "label", name),
            "name": name,
        }
