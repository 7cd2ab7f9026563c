"""PyTorch's files, read without PyTorch and without running anything that they hold.

They are a pickle whose tensors refer to storages: entries of a zip archive, or before PyTorch 1.6 bytes behind
the pickle. Tensors and plain containers are rebuilt. Of other classes the pickle names, nothing is imported.
"""

import collections
import functools
import io
import os
import pathlib
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C  # Begins files of PyTorch before 1.6.
_DTYPES = {
    "Double": np.float64,
    "Float": np.float32,
    "Half": np.float16,
    "BFloat16": jnp.bfloat16,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool_,
}
_Storage = tuple[np.dtype, bytes | bytearray]


def read_torch_file(path: pathlib.Path) -> Any:
    """What `torch.save` wrote: tensors as NumPy arrays, objects of unknown classes as empty stand-ins.

    Raises OSError for a file that is broken or of another kind.
    """
    try:
        with open(path, "rb") as file:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    return _read_zip(archive)
            file.seek(0)
            return _read_legacy(file)
    except Exception as error:  # Unpickling a broken file may raise anything.
        raise OSError(f"{type(error).__name__}: {error}") from error


def _read_zip(archive: zipfile.ZipFile) -> Any:
    content = next((n for n in archive.namelist() if n.endswith("/data.pkl")), "data.pkl")

    @functools.cache  # Tensors may share one.
    def storage(key: str, size: int) -> bytes:
        return archive.read(f"{content.removesuffix('.pkl')}/{key}")

    return _Unpickler(io.BytesIO(archive.read(content)), storage).load()


def _read_legacy(file: io.BufferedIOBase) -> Any:
    left = os.fstat(file.fileno()).st_size
    storages: dict[str, bytearray] = {}

    def storage(key: str, size: int) -> bytearray:
        # Filled below; a broken file must not ask for more memory than it has bytes.
        if key not in storages:
            nonlocal left
            left -= size
            if left < 0:
                raise EOFError(f"it is shorter than its storage {key}")
            storages[key] = bytearray(size)
        return storages[key]

    if _Unpickler(file, storage).load() != _MAGIC:
        raise pickle.UnpicklingError("it wasn't written by torch.save")
    _Unpickler(file, storage).load()  # Version of the format.
    if not _Unpickler(file, storage).load()["little_endian"]:
        raise pickle.UnpicklingError("its numbers are big-endian")
    content = _Unpickler(file, storage).load()
    for key in _Unpickler(file, storage).load():
        file.seek(8, os.SEEK_CUR)  # Number of elements, which the pickle told.
        if file.readinto(storages[key]) != len(storages[key]):
            raise EOFError(f"it ends within its storage {key}")
    return content


class _StandIn:
    """Takes whatever a pickle does to an object, and keeps nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def __call__(self, *args: Any, **kwargs: Any) -> "_StandIn":
        return self

    def __setstate__(self, state: Any) -> None: ...
    def __setitem__(self, key: Any, value: Any) -> None: ...
    def append(self, item: Any) -> None: ...
    def extend(self, items: Any) -> None: ...
    def add(self, item: Any) -> None: ...


class _Unpickler(pickle.Unpickler):
    """`storage` gives the bytes of a key and a size."""

    def __init__(
        self, file: io.BufferedIOBase, storage: Callable[[str, int], bytes | bytearray]
    ) -> None:
        super().__init__(file, encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        return _CLASSES.get((module, name)) or type(name, (_StandIn,), {})

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "module":  # A class of modules, with its source.
            return pid[1]
        _, dtype, key, _, count, *_ = pid
        if not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError(f"it holds a {dtype.__name__}")
        return dtype, self._storage(key, count * dtype.itemsize)


def _tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> np.ndarray:
    dtype, content = storage
    size = dtype.itemsize
    # Refuses what lies outside of the storage.
    return np.ndarray(shape, dtype, content, offset * size, tuple(size * step for step in strides))


def _parameter(tensor: np.ndarray, *_: Any) -> np.ndarray:
    return tensor


_CLASSES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    **{("torch", f"{name}Storage"): np.dtype(dtype) for name, dtype in _DTYPES.items()},
}
