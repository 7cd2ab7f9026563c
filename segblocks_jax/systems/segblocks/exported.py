"""Exported engines: StableHLO programs and weights in a folder, served without the model's code.

Loading needs jax, numpy, flatbuffers and, where the programs call them, this package's handlers; no Flax.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from segblocks_jax.allocator import keep_freed_memory
from segblocks_jax.errors import InputError, UnavailableError
from segblocks_jax.inference.programs import (
    KeyedCache,
    check_files,
    deserialize,
    read_manifest,
    read_weights,
)
from segblocks_jax.inference.server import check_fork
from segblocks_jax.ops import extension
from segblocks_jax.paths import expand
from segblocks_jax.systems.segblocks.serving import Server
from segblocks_jax.systems.segblocks.settings import Mode, Program, Settings

MANIFEST = "engine.json"
WEIGHTS = "weights.npz"
FORMAT = "segblocks_jax engine"
VERSION = "2"
_RENAMED = {"1": {"quantise_step": "bucket_step"}}  # Settings of earlier versions.


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What `engine.json` holds."""

    settings: Settings  # Of the server.
    programs: dict[str, Program]  # By file name.
    dtypes: tuple[str, ...]  # Of the weights, in their order.
    platforms: tuple[str, ...]  # That the programs run on, "cpu" and "cuda".
    # Names of the custom calls to this package's handlers; none: jax alone runs the programs.
    targets: tuple[str, ...]
    spec: dict[str, Any]  # `ModelSpec.to_dict` of the model.
    # Of the files, by name; empty in version 1.
    sha256: dict[str, str] = dataclasses.field(default_factory=dict)
    jax: str | None = jax.__version__  # Version that exported them; None in version 1.

    @property
    def made_by(self) -> str:
        """The version of JAX that exported it, in words."""
        return "an earlier version of JAX" if self.jax is None else f"JAX {self.jax}"

    def to_json(self) -> str:
        """As text."""
        content = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    def read(cls, folder: pathlib.Path) -> "Manifest":
        """Reads it, and checks that the files it names are those that were written.

        Raises FileNotFoundError where there is no exported engine, and ValueError, naming the file, for a broken
        one or another version of the format.
        """
        manifest = read_manifest(folder / MANIFEST, "Engine.export", cls._parse)
        check_files(folder, [*manifest.programs, WEIGHTS], manifest.sha256)
        return manifest

    @classmethod
    def _parse(cls, content: Mapping[str, Any]) -> "Manifest":
        kind, version = content.get("format"), content.get("version")
        if kind != FORMAT or version not in ("1", VERSION):
            raise InputError(
                f"it says format {kind!r}, version {version!r}; this package reads {FORMAT!r}, versions 1 to"
                f" {VERSION}; it was exported by JAX {content.get('jax', '?')}, this is JAX {jax.__version__}"
            )
        renamed = _RENAMED.get(version, {})
        settings = {renamed.get(name, name): v for name, v in content["settings"].items()}
        settings["fill"], settings["mode"] = tuple(settings["fill"]), Mode(**settings["mode"])
        settings["shapes"] = tuple(map(tuple, settings["shapes"]))
        return cls(
            settings=Settings(**settings),
            programs={
                name: Program(**{**program, "shape": tuple(program["shape"])})
                for name, program in content["programs"].items()
            },
            **{key: tuple(content[key]) for key in ("dtypes", "platforms", "targets")},
            spec=content["spec"],
            sha256=dict(content.get("sha256", {})),
            jax=content.get("jax"),
        )


class ExportedEngine(Server):
    """An engine from a folder of `Engine.export`, described by `manifest`; called as `segblocks_jax.Engine` is."""

    def __init__(self, folder: str | os.PathLike[str], *, keep_memory: bool = False) -> None:
        """Reads the weights and checks all files; programs are compiled when first needed, or by `warm_up`.

        Args:
            folder: of `Engine.export`.
            keep_memory: as for `segblocks_jax.Engine`.

        Raises:
            FileNotFoundError: no exported engine.
            ValueError: a broken folder; names the file.
            RuntimeError: it was exported for other platforms, or needs handlers that aren't here; or see
                `segblocks_jax.Engine`.
        """
        check_fork()
        folder = expand(folder)
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
        self._folder, self._manifest = folder, manifest
        self._files = {program: name for name, program in manifest.programs.items()}
        self._weights = read_weights(folder / WEIGHTS, manifest.dtypes)
        self._compiled: KeyedCache[Program, jax.stages.Compiled] = KeyedCache()
        self.max_size = len(self._files)

    @property
    def compilations(self) -> int:
        return self._compiled.made

    def get(
        self, program: Program, device: jax.Device | None = None
    ) -> tuple[Callable[..., Any], bool]:
        compiled, made = self._compiled.get(program, lambda: self._compile(program))
        return (lambda *arguments: compiled(self._weights, *arguments)), made

    def _compile(self, program: Program) -> jax.stages.Compiled:
        if program not in self._files:
            shapes = sorted({known.shape for known in self._files})
            raise InputError(
                f"{self._folder} has no program for {program}; it was exported for images of {shapes}: give"
                " the mode and shapes to Engine.export"
            )
        file = self._folder / self._files[program]
        return deserialize(file, self._weights, self._manifest.made_by)
