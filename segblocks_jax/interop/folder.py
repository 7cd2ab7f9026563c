"""Models in folders: weights.safetensors under PyTorch's names, and config.json, which builds the rest."""

import importlib
import json
import os
import pathlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import safetensors
import safetensors.numpy
from flax import nnx

from segblocks_jax.errors import InputError, MissingFileError, TargetExistsError
from segblocks_jax.interop import files
from segblocks_jax.interop.misfits import raise_misfits
from segblocks_jax.interop.torch import (
    named_variables,
    set_arrays,
    torch_arrays,
    torch_shape,
)
from segblocks_jax.paths import check_writable, current_file, expand, is_own, whole_folder

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"
SHIPPED = pathlib.Path(__file__).parent.parent / "shipped_models"
"""The models that come with the package: a folder each, which its name loads."""
DTYPES = ("float32", "bfloat16")
_FORMAT = {"format": "segblocks_jax", "version": "1"}
_FIRST_SYSTEM = "segblocks"  # Of files that don't name theirs.


@runtime_checkable
class Spec(Protocol):
    """What builds a model again: `segblocks_jax.systems.NAME.spec.ModelSpec` of the system called `system`."""

    system: ClassVar[str]

    @property
    def name(self) -> str:
        """Of the model."""

    def build(self, rngs: nnx.Rngs) -> nnx.Dict:
        """Builds the modules of the system with random weights."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, from which the class method `from_mapping` makes the spec."""


def save_model(
    folder: str | os.PathLike[str],
    model: nnx.Module,
    spec: Spec,
    *,
    dtype: str = "float32",
    about: Mapping[str, Any] = MappingProxyType({}),
) -> pathlib.Path:
    """Writes a network, or a system ``nnx.Dict(net=..., policy=...)``, into a folder of its own.

    `weights.safetensors` holds all parameters and running statistics under the names of the authors'
    checkpoints (`net.backbone.conv1.weight`, `policy.policy_net.layers.0.weight`), kernels in OIHW;
    PyTorch reads it with `safetensors.torch.load_file` and ``load_state_dict(..., strict=False)``.
    `config.json` holds the spec, which builds the model again. Whatever stops a save, the folder holds the old
    model or the new one, and what a killed save left is cleaned up by the next.

    Args:
        folder: made, with its parents; an older save in it is replaced. It may be a symbolic link, a mount point or
            the current folder, and keeps its mode.
        model: the network or system.
        spec: what builds it.
        dtype: that weights are stored in. "bfloat16" halves the files and rounds, by up to 1/256 of a value; they
            load as float32 all the same.
        about: plain values, kept in `config.json`: where the model comes from, how good it is.

    Returns:
        The folder.

    Raises:
        ValueError: an unknown dtype, or the spec builds another model; lists every name that differs.
        TargetExistsError, UnwritableError: as `check_target`.
    """
    if dtype not in DTYPES:
        raise InputError(f"save_model: dtype is {dtype!r}; expected one of {DTYPES}")
    folder = check_target(folder)
    arrays = torch_arrays(model)
    expected = named_variables(_abstract(spec))
    raise_misfits(
        f"save_model: the spec ({spec.name}) builds another model than this {type(model).__name__}",
        {
            "only in the spec's": expected.keys() - arrays.keys(),
            "only in this": arrays.keys() - expected.keys(),
            "of another shape": {
                f"{name}: {arrays[name].shape}, the spec's {torch_shape(variable)}"
                for name, (_, variable) in expected.items()
                if name in arrays and arrays[name].shape != torch_shape(variable)
            },
        },
    )
    arrays = {name: array.astype(jnp.dtype(dtype), copy=False) for name, array in arrays.items()}
    content = {**_FORMAT, "system": spec.system, "model": spec.to_dict(), "about": dict(about)}
    text = json.dumps(content, indent=2, allow_nan=False)
    with whole_folder(folder, replace=True) as fresh:
        # Not by `save_file`, whose files no other user may read.
        (fresh / WEIGHTS).write_bytes(safetensors.numpy.save(arrays, metadata=_FORMAT))
        (fresh / CONFIG).write_text(text + "\n", encoding="utf-8")
    return folder


def check_target(folder: str | os.PathLike[str]) -> pathlib.Path:
    """The path of a folder that `save_model` may write or replace.

    Raises:
        TargetExistsError: it holds something else than a saved model.
        UnwritableError: it can't be made or written.
    """
    folder = expand(folder)
    own = {WEIGHTS, CONFIG}
    target = pathlib.Path(os.path.realpath(folder))  # Still a link, if it leads back to itself.
    is_model = target.is_dir() and all(p.name in own or is_own(p.name) for p in target.iterdir())
    if os.path.lexists(target) and not is_model:
        raise TargetExistsError(
            f"save_model: {folder} exists and is no saved model; move it away, or give another folder"
        )
    check_writable(target)
    return folder


def shipped_models() -> dict[str, dict[str, Any]]:
    """The models that come with the package, by name, and what they say of themselves (`load_about`)."""
    return {
        path.parent.name: load_about(path.parent) for path in sorted(SHIPPED.glob(f"*/{CONFIG}"))
    }


def load_about(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What `save_model` was given as `about`; argument as of `load_model`, which says what is wrong with a file."""
    path = current_file(model_folder(folder), CONFIG)
    return json.loads(path.read_text(encoding="utf-8")).get("about", {})


def model_folder(model: str | os.PathLike[str]) -> pathlib.Path:
    """Where a model is: in the folder `model`, or, if there is none, in that of the shipped model of this name."""
    folder = expand(model)
    shipped = not os.path.lexists(folder) and os.fspath(model) in shipped_models()
    return SHIPPED / model if shipped else folder


def load_model(folder: str | os.PathLike[str]) -> Any:
    """Builds the model of a folder of `save_model` and fills it, in evaluation mode.

    Args:
        folder: of `save_model`, or the name of one of `shipped_models`; an existing folder goes first.

    Returns:
        The system's modules, for SegBlocks ``nnx.Dict(net=..., policy=...)``; of a network alone, that.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        ValueError: a broken file, another version of the format, or weights that don't fit; lists every name.
    """
    folder = model_folder(folder)
    spec = load_spec(folder)
    weights = current_file(folder, WEIGHTS)
    state = files.read_state(weights)
    with safetensors.safe_open(weights, framework="np") as file:
        _check_format(weights, file.metadata() or {})
    system = _abstract(spec)
    title = f"load_model: {weights} doesn't fit {CONFIG} ({spec.name})"
    set_arrays(system, state, title, strict=True)
    _start_random_streams(system)
    system.eval()
    return system.net if list(system) == ["net"] else system


def load_spec(folder: str | os.PathLike[str]) -> Any:
    """Reads only the spec of a model, the `ModelSpec` of its system; argument and errors as of `load_model`."""
    folder = model_folder(folder)
    missing = [name for name in (CONFIG, WEIGHTS) if not current_file(folder, name).is_file()]
    if missing:
        raise MissingFileError(
            f"load_model: {folder} holds no {' and no '.join(missing)}; expected a folder that"
            " save_model wrote, or the name of a model that comes with the package"
            f" ({', '.join(shipped_models()) or 'there are none'})"
        )
    path = current_file(folder, CONFIG)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        _check_format(path, content)
        spec_type = _spec_type(path, content.get("system", _FIRST_SYSTEM))
        return spec_type.from_mapping(content["model"])
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"load_model: {path} can't be read ({type(error).__name__}: {error}); was it edited?"
        ) from error


def _spec_type(path: pathlib.Path, system: str) -> Any:
    """The spec's class, found by name: systems lie above."""
    module = f"segblocks_jax.systems.{system}.spec"
    try:
        return importlib.import_module(module).ModelSpec
    except ModuleNotFoundError as error:
        if not module.startswith(error.name or "?"):
            raise
        raise InputError(
            f"load_model: {path} holds a model of the system {system!r}, which this version hasn't; load it"
            " with the one that saved it"
        ) from None


def _abstract(spec: Spec) -> nnx.Dict:
    return nnx.eval_shape(lambda: spec.build(nnx.Rngs(0)))


def _start_random_streams(system: nnx.Dict) -> None:
    """Sets abstract keys and counters, such as those of dropout, which files don't hold."""

    def start(x: jax.ShapeDtypeStruct) -> jax.Array:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(jax.random.key(0), x.shape)
        return jnp.zeros(x.shape, x.dtype)

    streams = nnx.state(system, nnx.RngState)
    nnx.update(system, jax.tree.map(start, streams))


def _check_format(path: pathlib.Path, found: dict) -> None:
    got = {key: found.get(key) for key in _FORMAT}
    if got != _FORMAT:
        raise InputError(
            f"load_model: {path} is of format {got['format']!r}, version {got['version']!r}; this"
            f" library reads {_FORMAT['format']!r}, version {_FORMAT['version']!r}. Load a plain file"
            " of weights with load_torch_state_dict"
        )
