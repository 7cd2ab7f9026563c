"""Exported engines: StableHLO programs and weights in a folder, served without the model's code.

Loading needs jax, numpy, flatbuffers and, where the programs call them, this package's handlers; no
Flax.
"""

import dataclasses
import json
import os
import pathlib
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import ml_dtypes
import numpy as np

from segblocks_jax.errors import InvalidInputError, MissingFileError, UnavailableError
from segblocks_jax.inference.allocator import keep_freed_memory
from segblocks_jax.inference.keyed_cache import KeyedCache
from segblocks_jax.inference.modes import Mode
from segblocks_jax.inference.server import Program, Server, Settings
from segblocks_jax.ops import extension

MANIFEST = "engine.json"
WEIGHTS = "weights.npz"
FORMAT = {"format": "segblocks_jax engine", "version": "1"}


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What `engine.json` holds.

    Attributes:
        settings: of the server.
        programs: file name of each program.
        dtypes: of the weights, in their order.
        platforms: that the programs run on, "cpu" and "cuda".
        targets: names of the custom calls to this package's handlers; none: jax alone runs the programs.
        spec: `ModelSpec.to_dict` of the model.
    """

    settings: Settings
    programs: dict[str, Program]
    dtypes: tuple[str, ...]
    platforms: tuple[str, ...]
    targets: tuple[str, ...]
    spec: dict[str, Any]

    def to_json(self) -> str:
        """As text."""
        return json.dumps({**FORMAT, **dataclasses.asdict(self)}, indent=2) + "\n"

    @classmethod
    def read(cls, folder: pathlib.Path) -> "Manifest":
        """Reads it.

        Raises:
            FileNotFoundError: no exported engine.
            ValueError: another version of the format, or a broken file.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise MissingFileError(
                f"{folder} holds no {MANIFEST}; expected a folder of Engine.export"
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            given = {key: content.pop(key, None) for key in FORMAT}
            if given != FORMAT:
                raise InvalidInputError(f"it says {given}, this package reads {FORMAT}")
            for name in (*content["programs"], WEIGHTS):
                if (folder / name).resolve().parent != folder.resolve():
                    raise InvalidInputError(
                        f"{name!r} is, or leads to, a file outside of the folder"
                    )
            settings = content["settings"]
            return cls(
                settings=Settings(
                    **{
                        **settings,
                        "fill": tuple(settings["fill"]),
                        "mode": Mode(**settings["mode"]),
                        "shapes": tuple(map(tuple, settings["shapes"])),
                    }
                ),
                programs={
                    name: Program(**{**program, "shape": tuple(program["shape"])})
                    for name, program in content["programs"].items()
                },
                **{key: tuple(content[key]) for key in ("dtypes", "platforms", "targets")},
                spec=content["spec"],
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InvalidInputError(
                f"{path} can't be read ({type(error).__name__}: {error})"
            ) from error


class ExportedEngine(Server):
    """An engine from a folder of `Engine.export`; called as `segblocks_jax.Engine` is.

    Attributes:
        manifest: what the folder holds.
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep_memory: bool = True) -> None:
        """Reads the weights; programs are read and compiled when first needed, or by `warm_up`.

        Args:
            folder: of `Engine.export`.
            keep_memory: as for `segblocks_jax.Engine`.

        Raises:
            FileNotFoundError: no exported engine.
            ValueError: a broken folder.
            RuntimeError: it was exported for other platforms, or needs handlers that aren't here.
        """
        folder = pathlib.Path(folder)
        self.manifest = Manifest.read(folder)
        self._exported = _ExportedPrograms(folder, self.manifest)
        if keep_memory:
            keep_freed_memory()
        super().__init__(self._exported, self.manifest.settings)

    @property
    def compilations(self) -> int:
        """How many programs were compiled so far."""
        return self._exported.compilations


class _ExportedPrograms:
    def __init__(self, folder: pathlib.Path, manifest: Manifest) -> None:
        platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
        if platform not in manifest.platforms:
            raise UnavailableError(
                f"{folder} was exported for {', '.join(manifest.platforms)}, JAX runs on {platform}; export it"
                f" with platforms=({platform!r},)"
            )
        if manifest.targets and (reason := extension.why_unavailable()):
            raise UnavailableError(
                f"{folder} calls {', '.join(manifest.targets)}, but {reason}; or export it with execution='xla'"
            )
        self._folder = folder
        self._files = {program: name for name, program in manifest.programs.items()}
        self._weights = _read_weights(folder / WEIGHTS, manifest.dtypes)
        self._compiled: KeyedCache[Program, jax.stages.Compiled] = KeyedCache()

    @property
    def compilations(self) -> int:
        return len(self._compiled)

    def get(self, program: Program) -> tuple[Callable[..., Any], bool]:
        compiled, made = self._compiled.get(program, lambda: self._compile(program))
        return (lambda *arguments: compiled(self._weights, *arguments)), made

    def _compile(self, program: Program) -> jax.stages.Compiled:
        if program not in self._files:
            shapes = sorted({known.shape for known in self._files})
            raise InvalidInputError(
                f"{self._folder} has no program for {program}; it was exported for images of {shapes}: give"
                " the mode and shapes to Engine.export"
            )
        content = bytearray((self._folder / self._files[program]).read_bytes())
        exported = jax.export.deserialize(content)
        _, *arguments = jax.tree.unflatten(exported.in_tree, exported.in_avals)[0]
        return jax.jit(exported.call).lower(self._weights, *arguments).compile()


def write_weights(path: pathlib.Path, leaves: Sequence[jax.Array]) -> tuple[str, ...]:
    """Writes arrays; returns their dtypes, which npz files can't all name."""
    arrays = [np.asarray(leaf) for leaf in leaves]
    np.savez(path, *[a.view(np.uint16) if a.dtype == ml_dtypes.bfloat16 else a for a in arrays])
    return tuple(str(a.dtype) for a in arrays)


def _read_weights(path: pathlib.Path, dtypes: Sequence[str]) -> list[jax.Array]:
    try:
        with path.open("rb") as stream, np.load(stream) as file:
            arrays = [file[f"arr_{i}"] for i in range(len(dtypes))]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InvalidInputError(
            f"{path} can't be read ({type(error).__name__}: {error})"
        ) from error
    return [
        jax.device_put(a.view(ml_dtypes.bfloat16) if dtype == "bfloat16" else a)
        for a, dtype in zip(arrays, dtypes, strict=True)
    ]
