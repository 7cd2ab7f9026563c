"""Weights of the authors' PyTorch networks, by name."""

import re
from collections.abc import Hashable, Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx

# Module path (of `net` or of a policy network) to torch name, in order; the first match of each applies.
_RENAMES = (
    (r"^spp\.reduce\.", "spp.spp.spp_bn."),
    (r"^spp\.levels\.(\d+)\.", r"spp.spp.spp\1."),
    (r"^spp\.fuse\.", "spp.spp.spp_fuse."),
    (r"^(backbone\.blocks\.\d+\.\d+)\.", r"\1._"),
    (r"^convs\.(\d+)\.", lambda m: f"layers.{3 * int(m[1])}."),
    (r"^norms\.(\d+)\.", lambda m: f"layers.{3 * int(m[1]) + 1}."),
    (r"\.kernel$", ".weight"),
    (r"\.scale$", ".weight"),
    (r"\.mean$", ".running_mean"),
    (r"\.var$", ".running_var"),
)

# Counters of training steps, and classifiers that segmentation networks carry but don't use.
_UNUSED = re.compile(r"(\.num_batches_tracked$)|^backbone\.(head|fc)\.")


def torch_name(path: tuple[Hashable, ...]) -> str:
    """The PyTorch name of a variable.

    Example:
        >>> torch_name(("spp", "levels", 1, "conv", "kernel"))
        'spp.spp.spp1.conv.weight'
    """
    name = ".".join(map(str, path))
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def load_torch_state_dict(
    model: nnx.Module, state: Mapping[str, np.ndarray], *, strict: bool = True
) -> None:
    """Sets a network's parameters and running statistics from a PyTorch state dict of NumPy arrays.

    Convolution kernels are transposed from OIHW to HWIO. `num_batches_tracked` entries
    and the backbone's classifier are passed over.
    Nothing is changed where an error is raised.

    Args:
        model: a network of `create_model`, or a policy network.
        state: arrays by torch name, without the prefix of a wrapper.
        strict: demand that the names match exactly.

    Raises:
        ValueError: lists every missing, left-over and misshapen name.
    """
    flat = dict(nnx.to_flat_state(nnx.state(model)))
    variables = {torch_name(path): variable for path, variable in flat.items()}
    state = {k: np.asarray(v) for k, v in state.items() if not _UNUSED.search(k)}
    values, misshapen = {}, []
    for name in variables.keys() & state.keys():
        value = state[name].transpose(2, 3, 1, 0) if state[name].ndim == 4 else state[name]
        if value.shape != variables[name].shape:
            misshapen.append(f"{name}: got {value.shape}, expected {variables[name].shape} (HWIO)")
        values[name] = value
    problems = {
        "missing": sorted(variables.keys() - state.keys()) if strict else [],
        "left over": sorted(state.keys() - variables.keys()) if strict else [],
        "misshapen": sorted(misshapen),
    }
    if any(problems.values()):
        lines = [f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names]
        raise ValueError(
            f"load_torch_state_dict: {type(model).__name__} doesn't fit.\n" + "\n".join(lines)
        )
    loaded = {
        path: variable.replace(
            jnp.asarray(values.get(torch_name(path), variable[...]), variable.dtype)
        )
        for path, variable in flat.items()
    }
    nnx.update(model, nnx.from_flat_state(loaded))
