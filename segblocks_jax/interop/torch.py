"""Weights by their PyTorch names, which modules say themselves: see `segblocks_jax.models.TorchNames`."""

import os
import re
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from segblocks_jax.interop import files
from segblocks_jax.interop.misfits import raise_misfits
from segblocks_jax.models import Naming, TorchNames

# What our layers' arrays are called.
_ARRAYS = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
# Axes of kernels, by their number.
_TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0)}
_FROM_TORCH = {4: (2, 3, 1, 0), 2: (1, 0)}
_PARTS = ("net.", "policy.")  # Of a whole checkpoint.
_UNNAMED = TorchNames("")  # Modules that are called there as here.
_COUNTER = ".num_batches_tracked"  # Of training steps.
_STORED = nnx.Not(nnx.RngState)


def load_torch_state_dict(
    model: nnx.Module, state: Mapping[str, Any] | str | os.PathLike[str], *, strict: bool = True
) -> None:
    """Sets a network's parameters and running statistics from a PyTorch state dict.

    A network takes its part of a checkpoint that holds more: one of `create_model` `net.*`, a policy
    `policy.policy_net.*`, a backbone `net.backbone.*`, a system ``nnx.Dict(net=..., policy=...)``
    all. Names may also start where the network does, as in torchvision's ResNets
    (`layer1.0.conv1.weight`). A backbone also knows the names of published files, see
    `segblocks_jax.models.Naming`. The state may lie in a checkpoint under `state_dict` or `model`, and its
    names may begin with `module.`. `num_batches_tracked` and the backbone's classifier are passed
    over. Kernels are transposed from OIHW to HWIO, floats become the model's float32. Nothing is
    changed where an error is raised.

    Args:
        model: a network of `create_model`, its backbone, a policy or policy network, or a system.
        state: arrays (NumPy, JAX or PyTorch) by name, or a .pth, .pt, .safetensors or .npz file of them.
        strict: demand that the names match exactly; else those in common are loaded.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unreadable file; or names that don't fit: lists every missing, left-over and
            misshapen one (shapes as in PyTorch) and every entry that is no array. Where they are many, the
            error counts them and says in which file the list is.
    """
    load(model, state, strict)


def load(
    model: nnx.Module, state: Mapping[str, Any] | str | os.PathLike[str], strict: bool = True
) -> Naming | None:
    """As `load_torch_state_dict`; gives the naming of a backbone's published weights, if the state has it."""
    title = f"load_torch_state_dict: {type(model).__name__} doesn't fit"
    if not isinstance(state, Mapping):
        title += f" {os.fspath(state)}"
        state = files.read_state(state)
    state = files.unwrap(state)
    naming, hint = _naming(model, state)
    if naming is not None:
        state = {naming.own(name): value for name, value in state.items()}
    set_arrays(model, state, title, strict, hint)
    return naming


def _naming(model: nnx.Module, names: Iterable[str]) -> tuple[Naming | None, str]:
    """The naming of published weights that most names follow, None for the model's own; and that in words."""
    names, wanted = list(names), named_variables(model)
    place, kind = getattr(model, "torch_names", _UNNAMED).place, type(model).__name__
    namings: tuple[Naming, ...] = getattr(model, "namings", tuple)()
    lead = _lead(_common_place(table for _, table in _located(model).values()), names)
    fitting = [sum(place + naming.own(name) in wanted for name in names) for naming in namings]
    fitting.append(sum(lead + name in wanted for name in names))
    most = max(fitting)
    titles = [f"files of {naming.title}" for naming in namings] + ["own checkpoints"]
    if not most:
        return None, f"No name is one that {kind} has in {', '.join(titles)}."
    best = fitting.index(most)
    found = f"{most} of the {len(names)} names are those that {kind} has in {titles[best]}."
    return (*namings, None)[best], found


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
    for path, _ in nnx.to_flat_state(nnx.state(model, _STORED)):
        depths = (i for i in range(len(path)) if tables[path[:i]] is not _UNNAMED)
        depth = max(depths, default=0)
        located[path] = path[depth:], tables[path[:depth]]
    return located


def _name(below: tuple[Hashable, ...], table: TorchNames) -> str:
    *modules, array = map(str, below)
    return table.place + table.below(".".join([*modules, _ARRAYS.get(array, array)]))


def named_variables(model: nnx.Module) -> dict[str, tuple[tuple, nnx.Variable]]:
    """Path and variable of each entry of a model, by its name in a whole checkpoint."""
    names = torch_names(model)
    return {names[path]: (path, v) for path, v in nnx.to_flat_state(nnx.state(model, _STORED))}


def torch_shape(variable: nnx.Variable) -> tuple[int, ...]:
    """Shape of a variable in PyTorch: kernels are OIHW there, those of linear layers (out, in)."""
    shape = tuple(variable.shape)
    return tuple(shape[axis] for axis in _TO_TORCH.get(len(shape), range(len(shape))))


def set_arrays(
    model: nnx.Module, state: Mapping[str, Any], title: str, strict: bool, hint: str = ""
) -> None:
    """Sets a model's variables, abstract ones too; for `title` and `hint` see `raise_misfits`."""
    variables = named_variables(model)
    tables = {table for _, table in _located(model).values()}
    place = _common_place(tables)
    lead = _lead(place, state)
    own = (place,) if place else tuple(p for p in _PARTS if any(n.startswith(p) for n in variables))
    entries = {
        name: value
        for name, value in ((lead + name, value) for name, value in state.items())
        if name.startswith(own) or not name.startswith(_PARTS)
        if name in variables or not any(table.passes_over(name) for table in tables)
        if not name.endswith(_COUNTER)
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
    raise_misfits(title, problems, lead, hint)
    values = {}
    for name, array in arrays.items():
        path, variable = variables[name]
        value = array.transpose(_FROM_TORCH.get(array.ndim))  # Of other ranks one axis at most.
        values[path] = variable.replace(jnp.asarray(value, variable.dtype))
    nnx.update(model, nnx.from_flat_state(values))


def torch_arrays(model: nnx.Module) -> dict[str, np.ndarray]:
    """All variables of a model as in PyTorch, kernels in OIHW, by their names in a whole checkpoint."""
    arrays = {name: np.asarray(v[...]) for name, (_, v) in named_variables(model).items()}
    return {
        name: np.ascontiguousarray(array.transpose(_TO_TORCH.get(array.ndim)))
        for name, array in arrays.items()
    }


def _common_place(tables: Iterable[TorchNames]) -> str:
    places = {table.place for table in tables}
    shortest = min(places, key=len, default="")
    return shortest if all(place.startswith(shortest) for place in places) else ""


def _lead(place: str, names: Collection[str]) -> str:
    """What is missing before the names for them to be those of a whole checkpoint."""
    parts = re.findall(r"\w+\.", place)
    starts = ("".join(parts[i:]) for i in range(len(parts) + 1))
    found = next(start for start in starts if not start or any(n.startswith(start) for n in names))
    return place.removesuffix(found)
