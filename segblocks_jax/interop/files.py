"""Files of named arrays: PyTorch's .pth and .pt, .safetensors and .npz."""

import os
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from segblocks_jax.errors import InputError, MissingFileError
from segblocks_jax.interop.torch_files import read_torch_file
from segblocks_jax.paths import expand

# Keys under which a checkpoint keeps its state dict, beside optimizer, epoch and settings.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model")
_BROKEN = (zipfile.BadZipFile, zlib.error, safetensors.SafetensorError)


def read_state(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Reads a file of weights as it is: arrays by name, perhaps inside a checkpoint's wrapper.

    Nothing that a file holds is run. Raises FileNotFoundError, or ValueError for an unknown suffix, a broken file,
    or one that holds something else.
    """
    path = check_file(path)
    try:
        state = _READERS[path.suffix](path)
    except (OSError, EOFError, *_BROKEN) as error:
        raise InputError(
            f"{path}: can't be read as a {path.suffix} file ({error}); is it complete?"
        ) from error
    if not isinstance(state, Mapping):
        raise InputError(
            f"{path}: holds a {type(state).__name__}; expected names and their arrays, as of"
            " torch.save(model.state_dict(), FILE)"
        )
    return state


def check_file(path: str | os.PathLike[str]) -> pathlib.Path:
    """The path of a file of weights; FileNotFoundError if there is none, ValueError for an unknown suffix."""
    path = expand(path)
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"{path}: files of weights end in {', '.join(SUFFIXES)}, not in {path.suffix!r}"
        )
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file of weights")
    return path


def unwrap(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict inside a checkpoint, without the `module.` of PyTorch's data-parallel wrappers."""
    while wrapper := next((k for k in _WRAPPERS if isinstance(state.get(k), Mapping)), None):
        state = state[wrapper]
    names = [str(name) for name in state]
    if names and all(name.startswith("module.") for name in names):
        names = [name.removeprefix("module.") for name in names]
    return dict(zip(names, state.values(), strict=True))


def as_array(value: Any) -> np.ndarray | None:
    """A NumPy array of real numbers, from NumPy, JAX or PyTorch; None for anything else."""
    if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
        value = value.detach().cpu()
        # NumPy has no bfloat16 of its own; float32 holds all of its values.
        value = (value.float() if value.is_floating_point() else value).numpy()
    if not isinstance(value, np.ndarray | np.generic | jax.Array):
        return None
    real = any(jnp.issubdtype(value.dtype, kind) for kind in (np.floating, np.integer, np.bool_))
    return np.asarray(value) if real else None


def _read_npz(path: pathlib.Path) -> dict[str, Any]:
    if not zipfile.is_zipfile(path):
        raise zipfile.BadZipFile("not a zip archive")
    state: dict[str, Any] = {}
    with np.load(path) as file:
        for name in file.files:
            try:
                state[name] = file[name]
            except ValueError:
                # Python objects, which are never unpickled; what reads the state names them all.
                state[name] = None
    return state


_READERS: dict[str, Callable[[pathlib.Path], Any]] = {
    ".pth": read_torch_file,
    ".pt": read_torch_file,
    ".safetensors": safetensors.numpy.load_file,
    ".npz": _read_npz,
}
SUFFIXES = tuple(_READERS)
"""How the names of files of weights end."""
