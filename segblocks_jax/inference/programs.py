"""Compiled programs: kept for several threads, and in files, each known by its SHA-256."""

import collections
import contextlib
import json
import os
import pathlib
import re
import threading
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import jax
import jax.export
import ml_dtypes
import numpy as np

from segblocks_jax.errors import InputError, MissingFileError, TargetExistsError, extra
from segblocks_jax.ops import by_index, extension
from segblocks_jax.paths import expand, sha256

K = TypeVar("K")
V = TypeVar("V")
M = TypeVar("M")


class _Entry(Generic[V]):
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.values: list[V] = []  # None yet, or one.


class KeyedCache(Generic[K, V]):
    """A mapping whose values are made when first asked for, each by one thread, different ones at once.

    It keeps `max_size` values, None: all; `made` counts all that were made, dropped ones included.
    """

    def __init__(self, max_size: int | None = None) -> None:
        self.max_size, self.made = max_size, 0
        self._entries: collections.OrderedDict[K, _Entry[V]] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K, make: Callable[[], V]) -> tuple[V, bool]:
        """The value, and whether this call made it. What `make` raises, is raised; the next call tries again."""
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
        with entry.lock:
            if entry.values:
                return entry.values[0], False
            try:
                value = make()
            except BaseException:
                with self._lock:
                    if self._entries.get(key) is entry:
                        del self._entries[key]
                raise
            entry.values.append(value)
        with self._lock:
            self.made += 1
            self._drop()
        return value, True

    def _drop(self) -> None:
        excess = 0 if self.max_size is None else len(self._entries) - self.max_size
        done = [key for key, entry in self._entries.items() if entry.values]
        for key in done[: max(excess, 0)]:
            del self._entries[key]


PLATFORMS = ("cpu", "cuda")
_CUSTOM_CALL = re.compile(r"stablehlo\.custom_call @(\w+)")
_LFS_POINTER = b"version https://git-lfs"


def serialize(
    function: Callable[..., Any],
    leaves: Sequence[jax.Array],
    arguments: Sequence[Any],
    platforms: Sequence[str],
) -> tuple[bytes, set[str]]:
    """A program of weights and arguments as bytes, and the names of this package's handlers it calls."""
    with extra("export", "export"):
        import flatbuffers  # noqa: F401
    checks = [jax.export.DisabledSafetyCheck.custom_call(name) for name in extension.TARGETS]
    specs = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    export = jax.export.export(jax.jit(function), platforms=platforms, disabled_checks=checks)
    with by_index.without_lending() if "cpu" in platforms else contextlib.nullcontext():
        exported = export(specs, *arguments)
    called = set(_CUSTOM_CALL.findall(exported.mlir_module())) & set(extension.TARGETS)
    return bytes(exported.serialize()), called


def deserialize(
    file: pathlib.Path, weights: Sequence[jax.Array], made_by: str
) -> jax.stages.Compiled:
    """Reads and compiles a program of `serialize`; a ValueError names the file, `made_by` and this version of JAX."""
    try:
        exported = jax.export.deserialize(bytearray(file.read_bytes()))
        _, *arguments = jax.tree.unflatten(exported.in_tree, exported.in_avals)[0]
        return jax.jit(exported.call).lower(weights, *arguments).compile()
    except Exception as error:  # Of flatbuffers, MLIR, XLA: whatever a broken or newer file raises.
        raise InputError(
            f"{file} can't be read ({type(error).__name__}: {error}). It was exported by {made_by}, this is"
            f" JAX {jax.__version__}: export it again, or update JAX"
        ) from error


def write_weights(path: pathlib.Path, leaves: Sequence[jax.Array]) -> tuple[str, ...]:
    """Writes arrays; returns their dtypes, which npz files can't all name."""
    arrays = [np.asarray(leaf) for leaf in leaves]
    np.savez(path, *[a.view(np.uint16) if a.dtype == ml_dtypes.bfloat16 else a for a in arrays])
    return tuple(str(a.dtype) for a in arrays)


def read_weights(path: pathlib.Path, dtypes: Sequence[str]) -> list[jax.Array]:
    """The arrays of `write_weights`; a ValueError names a file that can't be read."""
    try:
        with path.open("rb") as stream, np.load(stream) as file:
            arrays = [file[f"arr_{i}"] for i in range(len(dtypes))]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} can't be read ({type(error).__name__}: {error})") from error
    return [
        jax.device_put(a.view(ml_dtypes.bfloat16) if dtype == "bfloat16" else a)
        for a, dtype in zip(arrays, dtypes, strict=True)
    ]


def export_target(folder: str | os.PathLike[str], platforms: Sequence[str]) -> pathlib.Path:
    """The folder that an engine is exported to.

    Raises:
        TargetExistsError: there is such a folder.
        InputError: no platforms, or unknown ones.
    """
    folder = expand(folder)
    if folder.exists():
        raise TargetExistsError(f"export: {folder} exists; move it away, or give another folder")
    if not platforms or not set(platforms) <= set(PLATFORMS):
        raise InputError(f"export: platforms are {tuple(platforms)}; expected some of {PLATFORMS}")
    return folder


def read_manifest(path: pathlib.Path, made_by: str, parse: Callable[[Any], M]) -> M:
    """What `parse` makes of a JSON file in the folder of an exported engine.

    Raises:
        MissingFileError: there is none; `made_by` says what writes such folders.
        InputError: a broken one, or `parse` raises a KeyError, TypeError, AttributeError or ValueError.
    """
    if not path.is_file():
        raise MissingFileError(
            f"{path.parent} holds no {path.name}; expected a folder of {made_by}"
        )
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path} can't be read ({type(error).__name__}: {error})") from error


def checksums(folder: pathlib.Path) -> dict[str, str]:
    """The SHA-256 of every file of a folder, in hexadecimal, by its name."""
    return {file.name: sha256(file) for file in sorted(folder.iterdir())}


def check_files(folder: pathlib.Path, names: Sequence[str], expected: Mapping[str, str]) -> None:
    """Refuses a folder whose files are not those that were written, by their SHA-256, `expected` by name.

    Of a file that `expected` lacks, only what is plain to see is checked. A ValueError names the
    first that is missing, cut, changed or outside the folder.
    """
    for name in names:
        file = folder / name
        if file.resolve().parent != folder.resolve():
            raise InputError(
                f"{folder}: {name!r} is, or leads to, a file outside of the folder; was it edited?"
            )
        found = None
        if file.is_file():
            with file.open("rb") as stream:
                found = stream.read(64)
        if found is None:
            problem = "is missing"
        elif not found:
            problem = "is empty"
        elif found.startswith(_LFS_POINTER):
            problem = "is a Git LFS pointer, not the file itself; run git lfs pull"
        elif name in expected and sha256(file) != expected[name]:
            problem = "is not the file that was exported (its SHA-256 differs)"
        else:
            continue
        raise InputError(
            f"{file} can't be read: it {problem}; copy the folder again, or export it again"
        )
