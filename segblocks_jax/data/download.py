"""Downloads of data sets, checked by SHA-256: against what is given, or against the first download."""

import hashlib
import json
import pathlib

import tensorflow_datasets as tfds

from segblocks_jax.data.entry import Dataset
from segblocks_jax.data.places import cache
from segblocks_jax.errors import InputError
from segblocks_jax.paths import partial_folder

_RECORDS = "downloads.json"


def download(dataset: Dataset, root: pathlib.Path, sha256: str | None = None) -> pathlib.Path:
    """Downloads a data set's public archive into its folder, by TFDS's manager.

    Args:
        dataset: its entry.
        root: its folder, made if needed.
        sha256: that the archive must have; by default what the entry says, else what the first download
            had, which the user's cache records.

    Raises:
        ValueError: it has no archive, it can't be reached, or the archive is another one.
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
        _check(dataset.url, archive, sha256 or dataset.sha256)
        archive.rename(target)
    return target


def _check(url: str, archive: pathlib.Path, expected: str | None) -> None:
    records = cache() / _RECORDS
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
