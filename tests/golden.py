"""The reference's recorded numbers: how its arrays are read, and its weights, which follow from names."""

import json
import pathlib
import zlib
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import segblocks_jax as sb
from segblocks_jax.interop import load_torch_state_dict, torch_names
from segblocks_jax.models import TorchNames


def load(shared: pathlib.Path, name: str) -> dict[str, np.ndarray]:
    """All arrays of a file."""
    with np.load(shared / "golden" / f"{name}.npz") as file:
        return dict(file)


def state_dict_entries(shared: pathlib.Path, name: str) -> dict[str, dict]:
    """Shape and checksum of every entry of a network's state dict."""
    return json.loads((shared / "golden" / f"state_dict_{name}.json").read_text())


def state_dict(entries: Mapping[str, dict]) -> dict[str, np.ndarray]:
    """The weights of a network, drawn from the names of its entries."""
    return {name: _weight(name, tuple(entry["shape"])) for name, entry in entries.items()}


def network(build: Callable[[], nnx.Module]) -> nnx.Module:
    """A network, given by its constructor, with the weights that follow from names.

    Nothing random is drawn by JAX, which would compile a program for every shape.
    """
    graphdef, state = nnx.split(nnx.eval_shape(build))
    state = jax.tree.map(lambda x: jnp.asarray(np.zeros(x.shape, x.dtype)), state)
    model = nnx.merge(graphdef, state)
    load_torch_state_dict(
        model, {name: _weight(name, x.shape) for name, x in variables(model).items()}
    )
    return model


def variables(model: nnx.Module, state: nnx.State | None = None) -> dict[str, np.ndarray]:
    """Every variable of a network, or of a state of it, by torch name and in torch layout."""
    names = relative_names(model)
    flat = nnx.to_flat_state(nnx.state(model) if state is None else state)
    return {names[path]: torch_layout(value[...]) for path, value in flat}


def relative_names(model: nnx.Module) -> dict[tuple, str]:
    """Torch names that begin where the model does."""
    place = getattr(model, "torch_names", TorchNames("")).place
    return {path: name.removeprefix(place) for path, name in torch_names(model).items()}


def _weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    z = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    kind = name.rsplit(".", 1)[1]
    if kind == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if kind == "running_var":
        value = 1 + 0.1 * np.abs(z)
    elif kind in ("bias", "running_mean"):
        value = 0.1 * z
    elif len(shape) > 1:
        value = z * np.sqrt(2 / np.prod(shape[1:]))
    else:
        value = 1 + 0.1 * z
    return value.astype(np.float32)


def random_input(seed: np.ndarray | int, shape: Iterable[int]) -> np.ndarray:
    """Normal float32 numbers, as the reference's inputs."""
    return np.random.default_rng(int(seed)).standard_normal(tuple(shape)).astype(np.float32)


def nhwc(array: np.ndarray) -> jnp.ndarray:
    """(n, c, h, w) to (n, h, w, c)."""
    return jnp.asarray(array.transpose(0, 2, 3, 1))


def torch_layout(array: np.ndarray) -> np.ndarray:
    """A convolution kernel from HWIO to OIHW, a linear one from (in, out) to (out, in); all else as it is."""
    array = np.asarray(array)
    return array.transpose({4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim))


def blocks(high: np.ndarray, low: np.ndarray, mask: np.ndarray) -> sb.DualRes:
    """Blocks (m, c, b, b) of both kinds; the dummy of a kind without blocks is dropped."""
    grid = sb.BlockGrid.from_mask(mask)
    parts = (high[: grid.num_high], low[: grid.num_low])
    pixels = [nhwc(part).reshape(-1, high.shape[1]) for part in parts]
    return sb.DualRes(jnp.concatenate(pixels), grid)


def assert_within(got: np.ndarray, expected: np.ndarray, share: float, name: str = "") -> None:
    """The largest difference is at most `share` of the standard deviation."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    difference = np.abs(got - expected).max() / expected.std()
    assert difference <= share, f"{name} differs by {difference:.2e} standard deviations"
