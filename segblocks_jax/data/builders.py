"""Preparing data sets as TFDS array records, without TensorFlow.

A record holds the image's and the label's files as they are on disk (nothing is re-encoded, but labels
in colors, which become ids) and the pair's name; stored ids become train ids when read. Records keep
the order of the names.
"""

import concurrent.futures
import contextlib
import io
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from segblocks_jax.data.datasets import DATASETS
from segblocks_jax.data.decode import decode
from segblocks_jax.data.entry import Kind
from segblocks_jax.data.fingerprint import Fingerprint
from segblocks_jax.data.folders import Problems, Split, check_pair, find_splits
from segblocks_jax.data.index import Index
from segblocks_jax.data.records import NAME
from segblocks_jax.data.store import Store
from segblocks_jax.errors import InputError, extra
from segblocks_jax.paths import check_writable, whole_folder
from segblocks_jax.tasks.segmentation.camvid_labels import camvid_ids
from segblocks_jax.tasks.segmentation.labels import LabelTable

with extra("train", "a data set"):
    import tensorflow_datasets as tfds
    from PIL import Image


class _PairsBuilder(  # type: ignore[call-arg]
    tfds.core.GeneratorBasedBuilder, skip_registration=True
):
    """Image/label pairs of one data set; `index` is filled on the way."""

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES: ClassVar = {"2.0.0": "Image and label files as published."}
    name = NAME

    def __init__(self, dataset: str, on_error: str, **options):
        self.index = Index()
        self._dataset, self._on_error = DATASETS[dataset], on_error
        super().__init__(**options)

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self):
        dataset = self._dataset
        return f"{dataset.name}: {dataset.expected}. {dataset.origin}."

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self._dataset.name}: images with stored label ids.",
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
        dataset, store = self._dataset, Store(pathlib.Path(dl_manager.manual_dir))
        table = dataset.table_of(store)
        return {
            name: self._generate_examples(name, split, dataset.labels, table)
            for name, split in find_splits(dataset, store).items()
        }

    def _generate_examples(self, name: str, split: Split, kind: Kind, table: LabelTable):
        problems = split.problems(self._on_error, name)
        sizes = self.index.sizes[name] = []
        pixels = np.zeros(256, np.int64)
        for pair, size, counts in _checked(split, kind, table, problems):
            label: bytes = pair.label.read()
            if kind == "colors":
                label = _as_ids(label, pair.label.where)
            sizes.append(size)
            pixels += counts
            image = pair.image.read()
            yield pair.name, {"image": image, "label": label, "name": pair.name}
        self.index.skipped[name] = problems.messages
        self.index.pixels[name] = pixels.tolist()


def _checked(split: Split, kind: Kind, table: LabelTable, problems: Problems) -> Iterator[tuple]:
    """The good pairs in order with what `check_pair` says; checked ahead by threads, decoding is slow."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        checks = [pool.submit(check_pair, pair, kind, table) for pair in split.pairs]
        try:
            for pair, check in zip(split.pairs, checks, strict=True):
                try:
                    size, counts = check.result()
                except InputError as error:
                    problems.add(str(error))
                else:
                    yield pair, size, counts
        finally:
            pool.shutdown(cancel_futures=True)


def _as_ids(content: bytes, where: str) -> bytes:
    ids = camvid_ids(decode(content, "colors", where), where)
    file = io.BytesIO()
    Image.fromarray(ids).save(file, "PNG")
    return file.getvalue()


def prepare(
    name: str,
    root: pathlib.Path,
    folder: pathlib.Path,
    fingerprint: Fingerprint,
    on_error: str = "raise",
) -> None:
    """Prepares a data set as array records, in one piece: a folder appears complete or not at all.

    Args:
        name: of the data set.
        root: its folder, unpacked or with archives.
        folder: to create.
        fingerprint: of its files.
        on_error: "raise", or "skip" to leave out bad items, at most 1% of a split.

    Raises:
        ValueError, FileNotFoundError: what `find_splits` and `check_pair` raise.
        UnwritableError: the folder can't be made.
    """
    check_writable(folder)
    # Another process that is faster has prepared the same.
    with contextlib.suppress(FileExistsError), whole_folder(folder) as fresh:
        builder = _PairsBuilder(name, on_error, data_dir=fresh, file_format="array_record")
        builder.download_and_prepare(
            download_dir=fresh / "downloads",
            download_config=tfds.download.DownloadConfig(manual_dir=root),
        )
        shutil.rmtree(fresh / "downloads", ignore_errors=True)
        builder.index.write(fresh)
        fingerprint.save(fresh)
