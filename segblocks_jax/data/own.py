"""Your own data: a folder whose `dataset.yaml` says where images and labels lie, and what labels mean.

docs/data.md tells all keys. Labels of every kind are prepared as train ids.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from segblocks_jax.data.dataset import IMAGE_SUFFIXES, Dataset, Folder, Kind
from segblocks_jax.data.lists import place, read_list
from segblocks_jax.data.normalization import Normalization
from segblocks_jax.data.store import File, Store
from segblocks_jax.errors import InputError, MissingFileError, extra
from segblocks_jax.structured_config import (
    POSITIVE,
    SHARE,
    ConfigError,
    Range,
    build,
    check,
    check_fields,
    field,
    one_of,
)
from segblocks_jax.tasks.segmentation.labels import IGNORE, LabelCodes, distinct_colors, make_table

_NAMES = ("dataset.yaml", "dataset.yml", "dataset.json")
_SPLITS = ("train", "val", "test")
_BYTE = Range("numbers from 0 to 255", lambda x: 0 <= x <= 255)
_ID = Range("a number from 0 to 65535", lambda x: 0 <= x <= 65535)
_EXAMPLE = "such as [background, vessel]"
_KINDS: dict[str, Kind] = {"ids": "numbers", "palette": "palette", "colors": "colors"}


@dataclasses.dataclass(frozen=True)
class _Class:
    """A class, or, without a name, what is ignored."""

    name: str | None = None
    id: int | None = field(None, _ID)
    color: tuple[int, int, int] | None = field(None, _BYTE)


@dataclasses.dataclass(frozen=True)
class _Split:
    images: str | None = None
    labels: str | None = None
    list: str | None = None


@dataclasses.dataclass(frozen=True)
class _Splits:
    train: _Split | None = None
    val: _Split | None = None
    test: _Split | None = None


@dataclasses.dataclass(frozen=True)
class _Description:
    """The content of the file."""

    classes: tuple[object, ...] = ()
    labels: str = field("ids", one_of(_KINDS))
    ignore: tuple[object, ...] | None = None
    splits: _Splits | None = None
    image_suffixes: tuple[str, ...] = IMAGE_SUFFIXES
    label_suffixes: tuple[str, ...] = (".png",)
    mean: tuple[float, float, float] | None = field(None, SHARE)
    std: tuple[float, float, float] | None = field(None, POSITIVE)

    def __post_init__(self) -> None:
        check_fields(self)
        check(bool(self.classes), f"classes is missing; expected a list of them, {_EXAMPLE}")
        many = len(self.classes) > IGNORE
        check(not many, f"classes has {len(self.classes)} of them; expected at most {IGNORE}")
        both = (self.mean is None) == (self.std is None)
        check(both, f"mean is {self.mean} and std {self.std}; expected both or none of them")
        if self.splits is not None:
            check(bool(self.split_names), f"splits is empty; expected some of {_SPLITS}")
        known = self.mean is not None or "train" in self.split_names
        check(known, "splits.train is missing; it, or mean and std, says how to normalize")

    @property
    def split_names(self) -> tuple[str, ...]:
        """Of the splits that there must be, or may be where none is given."""
        splits = self.splits
        return tuple(n for n in _SPLITS if splits is None or getattr(splits, n) is not None)

    def full_classes(self) -> list[_Class]:
        """The classes with their colors and, but for labels in colors, their ids."""
        rows = [_class(given, f"classes[{i}]") for i, given in enumerate(self.classes)]
        if self.labels != "colors":
            given = {row.color for row in rows}
            free = (color for color in distinct_colors() if color not in given)
            rows = [
                dataclasses.replace(
                    row, id=i if row.id is None else row.id, color=row.color or next(free)
                )
                for i, row in enumerate(rows)
            ]
        for key in ("name", "id", "color"):
            _check_unique(rows, key)
        return rows

    def codes(self, classes: list[_Class], where: str) -> LabelCodes:
        """What label files hold, of the classes and of what is ignored."""
        key = "color" if self.labels == "colors" else "id"
        ignored = [_class({key: v}, f"ignore[{i}]") for i, v in enumerate(self.ignore or ())]
        if self.ignore is None and key == "id" and all(row.id != IGNORE for row in classes):
            ignored = [_Class(id=IGNORE)]
        rows = classes + ignored
        for row in rows:
            check(
                getattr(row, key) is not None and (key == "id" or row.id is None),
                f"class {row.name!r} has color {row.color} and id {row.id}; where labels are colors,"
                " expected a color and no id",
            )
        _check_unique(rows, key)
        ids = [*range(len(classes)), *[IGNORE] * len(ignored)]
        if key == "color":
            return LabelCodes.of_colors(where, [row.color for row in rows if row.color], ids)
        values = np.array([row.id for row in rows], np.uint32)
        return LabelCodes(where, "id", values, np.array(ids, np.uint8))

    def folders(self, where: str, store: Store, split: str) -> tuple[Folder, Folder]:
        """Of a split's images and labels; raises MissingFileError where what is named isn't there."""
        given = _Split() if self.splits is None else getattr(self.splits, split)
        images, labels = ("", "") if given.list else (split, f"{split}annot")
        found = (
            Folder(
                place(images if given.images is None else given.images), "*.*", self.image_suffixes
            ),
            Folder(
                place(labels if given.labels is None else given.labels), "*.*", self.label_suffixes
            ),
        )
        for key, folder in zip(("images", "labels"), found, strict=True):
            if self.splits is not None and not store.has(folder.path):
                raise MissingFileError(
                    f"{where}: splits.{split}.{key} is {folder.path!r}, but there is no folder "
                    f"{store.describe(folder.path)}. Nothing was written."
                )
        return found if given.list is None else read_list(store, place(given.list), *found)


def _class(given: Any, name: str) -> _Class:
    """A class by its name, or by a mapping of names and values."""
    row = {"name": given} if isinstance(given, str) else given
    check(
        isinstance(row, Mapping) and all(isinstance(key, str) for key in row),
        f"{name} is {given!r}; expected a name, in quotes where YAML takes it for something else, or"
        " {name: ..., id: ..., color: [red, green, blue]}",
    )
    found = build(_Class, row, f"{name}.")
    check_fields(found, f"{name}.")
    if name.startswith("classes"):
        check(bool(found.name), f"{name}.name is missing")
    return found


def _check_unique(rows: list[_Class], key: str) -> None:
    seen: dict[Any, str] = {}
    for row in rows:
        value, name = getattr(row, key), row.name or "ignore"
        if value is not None and value in seen:
            raise ConfigError(
                f"{key} {value!r} is that of two classes, {seen[value]} and {name}; expected one"
            )
        seen[value] = name


def _parse(file: File) -> dict[str, Any]:
    with extra("train", "a data set"):
        import yaml
    try:
        text = file.read().decode("utf-8-sig")
        content = json.loads(text) if file.key.endswith(".json") else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{file.where}: can't be read ({error}). Nothing was written.") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(
            f"{file.where}: holds no keys and values; expected at least classes: {_EXAMPLE}. Nothing was written."
        )
    return content


def _read(entry: Dataset, store: Store) -> Dataset:
    files = [file for name in _NAMES if (file := store.find(name))]
    if not files:
        raise MissingFileError(
            f"{store.describe(_NAMES[0])}: missing (nor is there a {_NAMES[-1]}); it says what the labels mean, at"
            f" least classes: {_EXAMPLE}. Nothing was written."
        )
    where = files[0].where
    if len(files) > 1:
        raise InputError(f"{where} and {files[1].where}: expected one of them; remove the other.")
    content = _parse(files[0])
    try:
        description = build(_Description, content)
        classes = description.full_classes()
        codes = description.codes(classes, where)
    except ConfigError as error:
        raise InputError(f"{where}: {str(error).rstrip('.')}. Nothing was written.") from error
    rows = [(i, row.name or "", row.color or (0, 0, 0)) for i, row in enumerate(classes)]
    mean, std = description.mean, description.std
    return dataclasses.replace(
        entry,
        splits=description.split_names,
        expected=entry.expected if description.splits is None else f"what {where} names",
        folders=lambda store, split: description.folders(where, store, split),
        table=make_table(where, rows, void=(IGNORE,)),
        codes=codes,
        labels=_KINDS[description.labels],
        normalization=None if mean is None or std is None else Normalization(mean, std),
    )


def _unread(store: Store, split: str) -> tuple[Folder, Folder]:
    raise AssertionError("only the data set's own file tells its folders; see Dataset.of")


FOLDERS = Dataset(
    name="folders",
    family="folders",
    splits=_SPLITS,
    expected="dataset.yaml (docs/data.md) and, unless it names others, <split>/*.png (or jpg) and "
    "<split>annot/*.png",
    folders=_unread,
    table=None,
    normalization=None,
    read=_read,
)
