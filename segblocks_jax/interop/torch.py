"""Weights by their PyTorch names, which modules say themselves: see `segblocks_jax.models.TorchNames`."""

import os
import re
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from segblocks_jax.errors import InputError
from segblocks_jax.interop import files
from segblocks_jax.models import TorchNames
from segblocks_jax.paths import sha256

# What our layers' arrays are called.
_ARRAYS = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_PARTS = ("net.", "policy.")  # Of a whole checkpoint.
_UNNAMED = TorchNames("")  # Modules that are called there as here.
_COUNTER = ".num_batches_tracked"  # Of training steps.


def load_torch_state_dict(
    model: nnx.Module, state: Mapping[str, Any] | str | os.PathLike[str], *, strict: bool = True
) -> None:
    """Sets a network's parameters and running statistics from a PyTorch state dict.

    A network takes its part of a checkpoint that holds more: one of `create_model` `net.*`, a policy
    `policy.policy_net.*`, a backbone `net.backbone.*`, a system ``nnx.Dict(net=..., policy=...)``
    all. Names may also start where the network does, as in torchvision's ResNets
    (`layer1.0.conv1.weight`). The state may lie in a checkpoint under `state_dict` or `model`, and
    its names may begin with `module.`. `num_batches_tracked` and the backbone's classifier are passed
    over. Kernels are transposed from OIHW to HWIO, floats become the model's float32. Nothing is
    changed where an error is raised.

    Args:
        model: a network of `create_model`, its backbone, a policy or policy network, or a system.
        state: arrays (NumPy, JAX or PyTorch) by name, or a .pth, .pt, .safetensors or .npz file of them.
        strict: demand that the names match exactly; else those in common are loaded.

    Raises:
        FileNotFoundError: no such file.
        ModuleNotFoundError: a .pth or .pt file, but PyTorch isn't installed.
        ValueError: an unreadable file; or names that don't fit: lists every missing, left-over and
            misshapen one (shapes as in PyTorch) and every entry that is no array.
    """
    title = f"load_torch_state_dict: {type(model).__name__} doesn't fit"
    if not isinstance(state, Mapping):
        title += f" {os.fspath(state)}"
        state = files.read_state(state)
    set_arrays(model, files.unwrap(state), title, strict)


def load_backbone(net: Any, file: str | os.PathLike[str]) -> dict[str, str]:
    """Loads a file of ImageNet weights into a network's backbone, before training.

    It may be of torchvision's ResNets, the published EfficientNet-Lites or a whole network: see
    `load_torch_state_dict`, also for errors.

    Returns:
        `file`, and its `sha256` in hexadecimal.
    """
    path = files.check_file(file)
    load_torch_state_dict(net.backbone, path)
    return {"file": str(file), "sha256": sha256(path)}


def torch_names(model: nnx.Module) -> dict[tuple[Hashable, ...], str]:
    """The PyTorch names of a model's variables in a whole checkpoint, by path.

    Modules that are called otherwise than there say so: see `segblocks_jax.models.TorchNames`.

    Example:
        >>> from segblocks_jax import create_model
        >>> names = torch_names(create_model("swiftnet_rn18", width=4, features=6, rngs=nnx.Rngs(0)))
        >>> names[("spp", "levels", 1, "conv", "kernel")]
        'net.spp.spp.spp1.conv.weight'
    """
    return {path: _name(below, table) for path, (below, table) in _located(model).items()}


def _located(model: nnx.Module) -> dict[tuple[Hashable, ...], tuple[tuple, TorchNames]]:
    """By path of each variable, the path below the innermost module with names, and those."""
    nodes = nnx.iter_graph(model)
    tables: dict[tuple, TorchNames] = {
        path: getattr(type(node), "torch_names", _UNNAMED) for path, node in nodes
    }
    located: dict[tuple[Hashable, ...], tuple[tuple, TorchNames]] = {}
    for path, _ in nnx.to_flat_state(nnx.state(model)):
        depths = (i for i in range(len(path)) if tables[path[:i]] is not _UNNAMED)
        depth = max(depths, default=0)
        located[path] = path[depth:], tables[path[:depth]]
    return located


def _name(below: tuple[Hashable, ...], table: TorchNames) -> str:
    *modules, array = map(str, below)
    name = ".".join([*modules, _ARRAYS.get(array, array)])
    for pattern, replacement in table.renames:
        name = re.sub(pattern, replacement, name)
    return table.place + name


def named_variables(model: nnx.Module) -> dict[str, tuple[tuple, nnx.Variable]]:
    """Path and variable of each entry of a model, by its name in a whole checkpoint."""
    names = torch_names(model)
    return {names[path]: (path, v) for path, v in nnx.to_flat_state(nnx.state(model))}


def torch_shape(variable: nnx.Variable) -> tuple[int, ...]:
    """Shape of a variable in PyTorch: kernels are OIHW there."""
    shape = tuple(variable.shape)
    return (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape


def set_arrays(model: nnx.Module, state: Mapping[str, Any], title: str, strict: bool) -> None:
    """Sets a model's variables, abstract ones too; a ValueError begins with `title` and lists what doesn't fit."""
    state, variables = _own_names(model, state), named_variables(model)
    tables = {table for _, table in _located(model).values()}
    place = _common_place(tables)
    lead = _lead(place, state)
    own = (place,) if place else tuple(p for p in _PARTS if any(n.startswith(p) for n in variables))
    entries = {
        name: value
        for name, value in ((lead + name, value) for name, value in state.items())
        if name.startswith(own) or not name.startswith(_PARTS)
        if not any(table.passes_over(name) for table in tables) and not name.endswith(_COUNTER)
    }
    if not strict:
        entries = {name: value for name, value in entries.items() if name in variables}
    converted = {name: files.as_array(value) for name, value in entries.items()}
    arrays = {name: array for name, array in converted.items() if array is not None}
    shapes = {name: torch_shape(variable) for name, (_, variable) in variables.items()}
    problems = {
        "missing": variables.keys() - entries.keys() if strict or not entries else set(),
        "left over": entries.keys() - variables.keys(),
        "no arrays of numbers": converted.keys() - arrays.keys(),
        "misshapen": {
            f"{name}: got {arrays[name].shape}, expected {shapes[name]}"
            for name in arrays.keys() & shapes.keys()
            if arrays[name].shape != shapes[name]
        },
    }
    raise_misfits(title, problems, lead)
    values = {}
    for name, array in arrays.items():
        path, variable = variables[name]
        value = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        values[path] = variable.replace(jnp.asarray(value, variable.dtype))
    nnx.update(model, nnx.from_flat_state(values))


def _own_names(model: nnx.Module, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state with the names of `torch_names`, if it has those of published files."""
    for _, node in nnx.iter_graph(model):
        for naming in getattr(node, "namings", tuple)():
            if any(re.match(naming.marker, name) for name in state):
                return {naming.rename(name): value for name, value in state.items()}
    return state


def raise_misfits(title: str, problems: Mapping[str, set[str]], lead: str = "") -> None:
    """Raises one ValueError with a line each kind of problem, if there are any; names are cut by `lead`."""
    lines = [
        f"{kind}: {', '.join(sorted(name.removeprefix(lead) for name in names))}"
        for kind, names in problems.items()
        if names
    ]
    if lines:
        raise InputError("\n".join([f"{title}.", *lines]))


def torch_arrays(model: nnx.Module) -> dict[str, np.ndarray]:
    """All variables of a model as in PyTorch, kernels in OIHW, by their names in a whole checkpoint."""
    arrays = {name: np.asarray(v[...]) for name, (_, v) in named_variables(model).items()}
    return {
        name: np.ascontiguousarray(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array)
        for name, array in arrays.items()
    }


def _common_place(tables: Iterable[TorchNames]) -> str:
    places = {table.place for table in tables}
    shortest = min(places, key=len, default="")
    return shortest if all(place.startswith(shortest) for place in places) else ""


def _lead(place: str, names: Mapping[str, Any]) -> str:
    """What is missing before the names for them to be those of a whole checkpoint."""
    parts = re.findall(r"\w+\.", place)
    starts = ("".join(parts[i:]) for i in range(len(parts) + 1))
    found = next(start for start in starts if not start or any(n.startswith(start) for n in names))
    return place.removesuffix(found)
