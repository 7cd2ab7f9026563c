"""The weights of another run, or of a saved model, that a training starts from."""

import hashlib
import pathlib
from typing import Any

import numpy as np
from flax import nnx

from segblocks_jax.errors import InputError, MissingFileError
from segblocks_jax.interop import load_model, load_spec, shipped_models
from segblocks_jax.interop.folder import WEIGHTS, model_folder
from segblocks_jax.paths import current_file, expand, sha256
from segblocks_jax.systems.segblocks.spec import ModelSpec
from segblocks_jax.training import flat_state
from segblocks_jax.training.system import System
from segblocks_jax.training.workdir import open_checkpoints, restore_modules

# What weights of one shape may mean different networks in.
_SAME = ("name", "dilations", "padding", "stride_in")
BESIDE = "@"
"""Begins the name of a run beside this one's."""


def load_start(modules: nnx.Dict, system: Any, workdir: pathlib.Path | None) -> dict[str, Any]:
    """Fills the network, and the policy with `init_policy`, from `config.model.init_from` of a system.

    Of a run that keeps averages these are taken. A policy is taken as it was trained, without its calibration, but
    of a saved model, which holds the calibrated one alone.

    Returns:
        `file`, the folder; `sha256` of the weights; `step`, None of a saved model; `parts` that were filled.

    Raises:
        FileNotFoundError: there is no such run or model.
        InputError: it has another network, or no policy; lists what differs.
    """
    text, parts = system.config.model.init_from, ["net"]
    parts += ["policy"] * system.config.model.init_policy
    folder = find_start(text, workdir)
    if current_file(folder, WEIGHTS).is_file():
        spec, found, step = load_spec(folder), load_model(folder), None
        found = found if isinstance(found, nnx.Dict) else nnx.Dict(net=found)
    else:
        spec, found, step = _checkpoint(system, folder)
    _check_spec(folder, spec, system.spec)
    for part in parts:
        if part not in found or part not in modules:
            raise InputError(f"model.init_from: {folder} or this run has no {part}")
        _copy(folder, found[part], modules[part])
    digest = _digest(found, parts) if step is not None else sha256(current_file(folder, WEIGHTS))
    return {"file": text, "sha256": digest, "step": step, "parts": " and ".join(parts)}


def find_start(text: str, workdir: pathlib.Path | None) -> pathlib.Path:
    """The folder that `model.init_from` names: of a run, one of its checkpoints, a saved or a shipped model."""
    if not text.startswith(BESIDE):
        folder = model_folder(text)
    elif workdir is not None:
        folder = expand(workdir).parent / text.removeprefix(BESIDE)
    else:
        raise InputError(
            f"model.init_from is {text!r}, a run beside this one's workdir; there is none"
        )
    found = any(folder.glob("checkpoints/*")) or _step(folder) is not None
    if not found and not current_file(folder, WEIGHTS).is_file():
        raise MissingFileError(
            f"model.init_from: {folder} holds no checkpoints and no saved model; expected a workdir, its"
            f" checkpoints/STEP, the folder of a saved model, or a shipped model, {' or '.join(shipped_models())}"
        )
    return folder


def _step(folder: pathlib.Path) -> int | None:
    """Of the folder of one checkpoint."""
    is_one = folder.parent.name == "checkpoints" and folder.name.isdigit() and folder.is_dir()
    return int(folder.name) if is_one else None


def _checkpoint(system: Any, folder: pathlib.Path) -> tuple[ModelSpec, Any, int]:
    """The spec, modules and step of a run's checkpoint, of its last one if the folder is the workdir."""
    step = _step(folder)
    workdir = folder if step is None else folder.parent.parent
    with open_checkpoints(system, workdir) as checkpoints:
        stored = checkpoints.read_extra("latest" if step is None else step)["config"]
    kind: type[System] = type(system)
    other: Any = kind(kind.config_type.from_stored(stored), data_dir=system.config.data.data_dir)
    modules, found, _ = restore_modules(other, workdir, "latest" if step is None else step)
    return other.spec, modules, found


def _digest(modules: nnx.Dict, parts: list[str]) -> str:
    """SHA-256 of all arrays and their names."""
    total = hashlib.sha256()
    for part in parts:
        entries = flat_state.storable(flat_state.flatten(nnx.state(modules[part])))
        for name, array in entries.items():
            total.update(f"{part}/{name}".encode())
            total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def _check_spec(folder: pathlib.Path, found: ModelSpec, own: ModelSpec) -> None:
    lines = [
        f"model.{name} is {getattr(found, name)!r} there, {getattr(own, name)!r} here"
        for name in _SAME
        if getattr(found, name) != getattr(own, name)
    ]
    if lines:
        raise InputError(f"model.init_from: {folder} has another network: {'; '.join(lines)}")


def _copy(folder: pathlib.Path, source: nnx.Module, target: nnx.Module) -> None:
    given, own = nnx.state(source), nnx.state(target)
    described = (flat_state.describe(flat_state.flatten(state)) for state in (given, own))
    if lines := flat_state.differences(*described):
        raise InputError(
            "\n".join([f"model.init_from: the weights in {folder} don't fit:", *lines])
        )
    nnx.update(target, given)
