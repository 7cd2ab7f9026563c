"""TFDS builders. Preparing and reading work without TensorFlow.

A record holds the image's and the label's files as they are on disk (nothing is re-encoded, but labels
in colors, which become ids) and the pair's name; stored ids become train ids when read. Records keep
the order of the names. Beside them `index.json` has the images' sizes and what was left out.
"""

import concurrent.futures
import dataclasses
import io
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import ClassVar

from segblocks_jax.extras import extra

with extra("train", "a data set"):
    import tensorflow_datasets as tfds
    from PIL import Image

from segblocks_jax.data.decode import Kind, decode, decode_checked, turn_to_label
from segblocks_jax.data.folders import Problems, Split, check_pair, find_splits
from segblocks_jax.data.layouts import LAYOUTS, Layout
from segblocks_jax.data.store import Store
from segblocks_jax.errors import InvalidInputError
from segblocks_jax.tasks.segmentation.camvid_labels import camvid_ids
from segblocks_jax.tasks.segmentation.labels import LabelTable

_INDEX = "index.json"


@dataclasses.dataclass
class Index:
    """What is known of a prepared data set without reading its records, by split.

    Attributes:
        sizes: (height, width) of every image, in order.
        skipped: why each item that is missing was left out.
    """

    sizes: dict[str, list[tuple[int, int]]] = dataclasses.field(default_factory=dict)
    skipped: dict[str, list[str]] = dataclasses.field(default_factory=dict)


class _PairsBuilder(  # type: ignore[call-arg]
    tfds.core.GeneratorBasedBuilder, skip_registration=True
):
    """Image/label pairs found by the layout whose name is `layout`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "Image and label files as published."}
    layout: str

    def __init__(self, on_error: str = "raise", **options):
        super().__init__(**options)
        self.index = Index()
        self._on_error = on_error

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self):
        layout = LAYOUTS[self.layout]
        return f"{layout.name}: {layout.expected}. {layout.origin}."

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.layout}: images with stored label ids.",
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
        layout, store = LAYOUTS[self.layout], Store(pathlib.Path(dl_manager.manual_dir))
        table = layout.table(store)
        return {
            name: self._generate_examples(name, split, layout.labels, table)
            for name, split in find_splits(layout, store).items()
        }

    def _generate_examples(self, name: str, split: Split, kind: Kind, table: LabelTable):
        problems = split.problems(self._on_error, name)
        sizes = self.index.sizes[name] = []
        for pair, size in _checked(split, kind, table, problems):
            label: bytes = pair.label.read()
            if kind == "colors":
                label = _as_ids(label, pair.label.where)
            sizes.append(size)
            image = pair.image.read()
            yield pair.name, {"image": image, "label": label, "name": pair.name}
        self.index.skipped[name] = problems.messages


def _checked(split: Split, kind: Kind, table: LabelTable, problems: Problems) -> Iterator[tuple]:
    """The good pairs in order, each with its size; checked ahead by threads, decoding is slow."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        checks = [pool.submit(check_pair, pair, kind, table) for pair in split.pairs]
        try:
            for pair, check in zip(split.pairs, checks, strict=True):
                try:
                    size = check.result()
                except InvalidInputError as error:
                    problems.add(str(error))
                else:
                    yield pair, size
        finally:
            pool.shutdown(cancel_futures=True)


def _as_ids(content: bytes, where: str) -> bytes:
    ids = camvid_ids(decode(content, "colors", where), where)
    file = io.BytesIO()
    Image.fromarray(ids).save(file, "PNG")
    return file.getvalue()


class SegblocksCityscapes(_PairsBuilder):
    """Cityscapes, fine annotations."""

    layout = "cityscapes"


class SegblocksCityscapesCoarse(_PairsBuilder):
    """Cityscapes, coarse annotations to train on and fine ones to evaluate on."""

    layout = "cityscapes_coarse"


class SegblocksStreetScenes(_PairsBuilder):
    """The built-in scenes."""

    layout = "street_scenes"


class SegblocksCamvid(_PairsBuilder):
    """CamVid at 480x360 with 11 classes and void."""

    layout = "camvid"


class SegblocksCamvidFull(_PairsBuilder):
    """CamVid at 960x720, labels in 32 colors."""

    layout = "camvid_full"


class SegblocksMapillary(_PairsBuilder):
    """Mapillary Vistas v1.2."""

    layout = "mapillary"


class SegblocksMapillaryV2(_PairsBuilder):
    """Mapillary Vistas v2.0."""

    layout = "mapillary_v2"


BUILDERS = {
    builder.layout: builder
    for builder in (
        SegblocksCityscapes,
        SegblocksCityscapesCoarse,
        SegblocksStreetScenes,
        SegblocksCamvid,
        SegblocksCamvidFull,
        SegblocksMapillary,
        SegblocksMapillaryV2,
    )
}


def prepare(
    layout: str, root: pathlib.Path, folder: pathlib.Path, on_error: str = "raise"
) -> pathlib.Path:
    """Prepares a data set as array records, in one piece: a folder appears complete or not at all.

    Args:
        layout: name of the layout.
        root: the data set, unpacked or in archives.
        folder: TFDS data folder to create.
        on_error: "raise", or "skip" to leave out bad items, at most 1% of a split.

    Returns:
        `folder`, or `folder` with "-skipped" behind its name if items were left out, so that the two
        are never taken for each other.

    Raises:
        ValueError, FileNotFoundError: what `find_splits` and `check_pair` raise.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = pathlib.Path(tempfile.mkdtemp(prefix=".preparing-", dir=folder.parent))
    try:
        builder = BUILDERS[layout](on_error, data_dir=work / "data", file_format="array_record")
        builder.download_and_prepare(
            download_dir=work / "downloads",
            download_config=tfds.download.DownloadConfig(manual_dir=root),
        )
        index = dataclasses.asdict(builder.index)
        (work / "data" / _INDEX).write_text(json.dumps(index))
        if any(builder.index.skipped.values()):
            folder = skipped_folder(folder)
        try:
            (work / "data").rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster: same contents
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def skipped_folder(folder: pathlib.Path) -> pathlib.Path:
    """Where a data set goes that isn't whole."""
    return folder.with_name(f"{folder.name}-skipped")


def download(layout: Layout, root: pathlib.Path) -> pathlib.Path:
    """Downloads a data set's public archive into its folder, by TFDS's manager.

    Raises:
        ValueError: it has none, or it can't be reached; says where to get it by hand.
    """
    if layout.url is None:
        raise InvalidInputError(
            f"{layout.name} can't be downloaded by a program; get {layout.origin}"
        )
    target = root / f"{layout.name}.zip"
    root.mkdir(parents=True, exist_ok=True)
    work = pathlib.Path(tempfile.mkdtemp(prefix=".downloading-", dir=root))
    try:
        manager = tfds.download.DownloadManager(download_dir=work)
        pathlib.Path(manager.download(layout.url)).rename(target)
    except Exception as error:  # The manager's own, requests' and the operating system's.
        raise InvalidInputError(
            f"{layout.url}: can't be downloaded ({error}); put a copy of it into {root}"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


class Records:
    """Random access to splits of a prepared data set, one after the other.

    Decoded here and not by TFDS, which would turn palette labels into colors where OpenCV is installed.

    Attributes:
        sizes: (height, width) of every image.
        skipped: why items of these splits were left out, one text each.
    """

    def __init__(self, layout: str, folder: pathlib.Path, splits: tuple[str, ...]):
        skip = tfds.decode.SkipDecoding()
        builder = BUILDERS[layout](data_dir=folder, file_format="array_record")
        self._source = builder.as_data_source(
            "+".join(splits), decoders={"image": skip, "label": skip}
        )
        index = json.loads((folder / _INDEX).read_text())
        self.sizes = [(h, w) for split in splits for h, w in index["sizes"][split]]
        self.skipped = [text for split in splits for text in index["skipped"][split]]
        kind = LAYOUTS[layout].labels
        self._label_kind: Kind = "ids" if kind == "colors" else kind

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict:
        record = self._source[index]
        name = record["name"].decode()
        image = decode_checked(record["image"], "image", name)
        label = decode_checked(record["label"], self._label_kind, name)
        return {"image": turn_to_label(image, record["image"], label), "label": label, "name": name}
