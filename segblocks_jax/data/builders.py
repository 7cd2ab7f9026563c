"""Downloading data sets, and preparing them as TFDS array records, without TensorFlow.

A record holds the image's and the label's files as they are on disk (nothing is re-encoded, but labels
in codes such as colors, which become ids) and the pair's name; stored ids become train ids when read. Records keep
the order of the names. Downloads are checked by SHA-256: against what is given, or against the first one.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from segblocks_jax.data.dataset import Dataset
from segblocks_jax.data.folders import Checked, Pair, Problems, Split, check_pair, find_splits
from segblocks_jax.data.records import NAME, Fingerprint, Index
from segblocks_jax.data.source import cache
from segblocks_jax.data.store import Store
from segblocks_jax.errors import InputError, extra
from segblocks_jax.paths import check_writable, partial_folder, whole_folder

with extra("train", "a data set"):
    import tensorflow_datasets as tfds

_DOWNLOADS = "downloads.json"


def download(dataset: Dataset, root: pathlib.Path, sha256: str | None = None) -> pathlib.Path:
    """Downloads a data set's public archive into its folder, which is made if needed, by TFDS's manager.

    The archive must have the `sha256`; by default what the entry says, else what the first download had, which the
    user's cache records. Raises ValueError where there is no archive, or it is another or can't be reached.
    """
    if dataset.url is None:
        raise InputError(f"{dataset.name} can't be downloaded by a program; get {dataset.origin}")
    target = root / f"{dataset.name}.zip"
    with partial_folder(root) as work:
        try:
            manager = tfds.download.DownloadManager(download_dir=work)
            archive = pathlib.Path(manager.download(dataset.url))
        except Exception as error:  # The manager's own, requests' and the operating system's.
            raise InputError(
                f"{dataset.url}: can't be downloaded ({error}); put a copy of it into {root}"
            ) from error
        _check_sum(dataset.url, archive, sha256 or dataset.sha256)
        archive.rename(target)
    return target


def _check_sum(url: str, archive: pathlib.Path, expected: str | None) -> None:
    records = cache() / _DOWNLOADS
    try:
        recorded = json.loads(records.read_text()) if records.is_file() else {}
    except ValueError as error:
        raise InputError(f"{records}: can't be read ({error}); remove it") from error
    source = "was expected" if expected else f"had the first download (recorded in {records})"
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    expected = (expected or recorded.get(url, found)).lower()
    if found != expected:
        raise InputError(
            f"{url}: the archive has SHA-256 {found}, but {expected} {source}. It was changed at its origin or "
            f"on the way. If you trust it, give its own by --sha256={found}; nothing was kept"
        )
    if recorded.get(url) != found:
        records.parent.mkdir(parents=True, exist_ok=True)
        records.write_text(json.dumps({**recorded, url: found}, indent=1) + "\n")


class _PairsBuilder(  # type: ignore[call-arg]
    tfds.core.GeneratorBasedBuilder, skip_registration=True
):
    """Image/label pairs of one data set; `index` is filled on the way."""

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES: ClassVar = {"2.0.0": "Image and label files as published."}
    name = NAME

    def __init__(self, dataset: Dataset, on_error: str, **options):
        self.index = Index()
        self._dataset, self._on_error = dataset, on_error
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
        store = Store(pathlib.Path(dl_manager.manual_dir))
        return {
            name: self._generate_examples(name, split)
            for name, split in find_splits(self._dataset, store).items()
        }

    def _generate_examples(self, name: str, split: Split):
        problems = Problems(self._on_error, name, split)
        sizes = self.index.sizes[name] = []
        pixels, values = np.zeros(256, np.int64), np.zeros((3, 256), np.int64)
        for pair, found in _checked(split, self._dataset, problems):
            sizes.append(found.size)
            pixels += found.pixels
            if found.values is not None:
                values += found.values
            image, label = pair.image.read(), found.label or pair.label.read()
            yield pair.name, {"image": image, "label": label, "name": pair.name}
        self.index.skipped[name] = problems.messages
        self.index.pixels[name] = pixels.tolist()
        if self._dataset.normalization is None:
            self.index.values[name] = values.tolist()


def _checked(split: Split, dataset: Dataset, problems: Problems) -> Iterator[tuple[Pair, Checked]]:
    """The good pairs in order with what `check_pair` says; checked ahead by threads, decoding is slow."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        checks = [pool.submit(check_pair, pair, dataset) for pair in split.pairs]
        try:
            for pair, check in zip(split.pairs, checks, strict=True):
                try:
                    found = check.result()
                except InputError as error:
                    problems.add(str(error))
                else:
                    yield pair, found
        finally:
            pool.shutdown(cancel_futures=True)


def prepare(
    dataset: Dataset,
    root: pathlib.Path,
    folder: pathlib.Path,
    fingerprint: Fingerprint,
    on_error: str = "raise",
) -> None:
    """Prepares the data set in `root` as array records in `folder`, which appears complete or not at all.

    `dataset` is what `Dataset.of` gives. `on_error` is "raise", or "skip" to leave out bad items, at most 1% of a
    split. Raises what `find_splits` and `check_pair` raise, and UnwritableError where the folder can't be made.
    """
    check_writable(folder)
    # Another process that is faster has prepared the same.
    with contextlib.suppress(FileExistsError), whole_folder(folder) as fresh:
        builder = _PairsBuilder(dataset, on_error, data_dir=fresh, file_format="array_record")
        builder.download_and_prepare(
            download_dir=fresh / "downloads",
            download_config=tfds.download.DownloadConfig(manual_dir=root),
        )
        shutil.rmtree(fresh / "downloads", ignore_errors=True)
        builder.index.write(fresh)
        fingerprint.save(fresh)
