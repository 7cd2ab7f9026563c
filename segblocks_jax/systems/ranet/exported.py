"""Exported engines: a StableHLO program per stage, for any number of images, served without the model's code."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.export
from jaxtyping import Array

from segblocks_jax.errors import InputError, UnavailableError
from segblocks_jax.inference.programs import (
    check_files,
    checksums,
    export_target,
    read_manifest,
    read_weights,
    serialize,
    write_weights,
)
from segblocks_jax.inference.server import check_fork
from segblocks_jax.ops import extension
from segblocks_jax.paths import expand, whole_folder
from segblocks_jax.systems.ranet.fits import Fit
from segblocks_jax.systems.ranet.programs import CompiledPrograms, Shapes, StagePrograms
from segblocks_jax.systems.ranet.serving import Server
from segblocks_jax.systems.ranet.settings import Mode, Settings

MANIFEST = "engine.json"
FORMAT = "segblocks_jax early exits"
VERSION = "1"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What `engine.json` holds."""

    settings: Settings  # Of the server.
    stages: tuple[str, ...]  # Names of their files, and of those of their weights.
    weights: tuple[str, ...]
    dtypes: tuple[tuple[str, ...], ...]  # Of the weights, in their order.
    platforms: tuple[str, ...]  # That the programs run on, "cpu" and "cuda".
    targets: tuple[str, ...]  # Names of custom calls to this package's handlers.
    spec: dict[str, Any]  # `ModelSpec.to_dict` of the model.
    sha256: dict[str, str]  # Of the files, by name.
    jax: str = jax.__version__  # Version that exported them.

    def to_json(self) -> str:
        """As text."""
        content = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    def read(cls, folder: pathlib.Path) -> "Manifest":
        """Reads it, and checks that the files it names are those that were written.

        Raises FileNotFoundError where there is none, and InputError, naming the file, for a broken one.
        """
        manifest = read_manifest(folder / MANIFEST, "`export_stages`", cls._parse)
        check_files(folder, [*manifest.stages, *manifest.weights], manifest.sha256)
        return manifest

    @classmethod
    def _parse(cls, content: Mapping[str, Any]) -> "Manifest":
        fields = dict(content)
        kind, version = fields.pop("format"), fields.pop("version")
        if (kind, version) != (FORMAT, VERSION):
            raise InputError(
                f"it says format {kind!r}, version {version!r}; this package reads {FORMAT!r}, version {VERSION}"
            )
        settings = dict(fields["settings"])
        settings["crop"], settings["macs"] = tuple(settings["crop"]), tuple(settings["macs"])
        settings["fits"] = tuple(map(Fit.from_mapping, settings["fits"]))
        settings["mode"] = Mode(**settings["mode"])
        for name in ("stages", "weights", "platforms", "targets"):
            fields[name] = tuple(fields[name])
        fields["dtypes"] = tuple(map(tuple, fields["dtypes"]))
        return cls(**{**fields, "settings": Settings(**settings)})


def export_stages(
    folder: str | os.PathLike[str],
    programs: StagePrograms,
    settings: Settings,
    spec: Mapping[str, Any],
    platforms: Sequence[str],
) -> pathlib.Path:
    """Writes a program and the weights of each stage for `ExportedEngine`; raises as `Engine.export`."""
    folder = export_target(folder, platforms)
    if programs.execution == "fused":
        raise InputError(
            "export: the engine's execution is 'fused', whose programs are for one number of images; build it"
            " with execution='plain' or 'xla'"
        )
    (count,) = jax.export.symbolic_shape("n")
    exits = range(len(settings.macs))
    with whole_folder(folder) as fresh:
        targets: set[str] = set()
        dtypes = []
        for k in exits:
            leaves = programs.leaves(k)
            with programs.tracing():
                given = programs.carried(k, count)
                content, called = serialize(programs.function(k), leaves, (given,), platforms)
            (fresh / f"stage{k}.jax_export").write_bytes(content)
            dtypes.append(write_weights(fresh / f"stage{k}.npz", leaves))
            targets |= called
        manifest = Manifest(
            settings=settings,
            stages=tuple(f"stage{k}.jax_export" for k in exits),
            weights=tuple(f"stage{k}.npz" for k in exits),
            dtypes=tuple(dtypes),
            platforms=tuple(platforms),
            targets=tuple(sorted(targets)),
            spec=dict(spec),
            sha256=checksums(fresh),
        )
        (fresh / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return folder


class ExportedEngine(Server):
    """An engine from a folder of `Engine.export`, described by `manifest`; called as `Engine` is."""

    def __init__(self, folder: str | os.PathLike[str], *, mode: str | None = None) -> None:
        """Reads the weights and checks all files; programs are compiled when first needed, or by `warm_up`.

        Args:
            folder: of `Engine.export`.
            mode: default: the engine's that was exported.

        Raises:
            FileNotFoundError: no exported engine.
            InputError: a broken folder; names the file.
            RuntimeError: it was exported for other platforms, or needs handlers that aren't here.
        """
        check_fork()
        folder = expand(folder)
        self.manifest = Manifest.read(folder)
        settings = self.manifest.settings
        if mode is not None:
            settings = dataclasses.replace(settings, mode=Mode.parse(mode))
        super().__init__(_ExportedPrograms(folder, self.manifest), settings)


class _ExportedPrograms(CompiledPrograms):
    def __init__(self, folder: pathlib.Path, manifest: Manifest) -> None:
        super().__init__()
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
        files = zip(manifest.weights, manifest.dtypes, strict=True)
        self._leaves = [read_weights(folder / name, dtypes) for name, dtypes in files]
        self._exported = [_read(folder / name, manifest.jax) for name in manifest.stages]

    def leaves(self, stage: int) -> Sequence[Array]:
        return self._leaves[stage]

    def carried(self, stage: int, count: int) -> Shapes:
        exported = self._exported[stage]
        (_, given), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
        return tuple(jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype) for x in given)

    def function(self, stage: int) -> Callable[[Sequence[Array], Any], Any]:
        return self._exported[stage].call


def _read(file: pathlib.Path, made_by: str) -> jax.export.Exported:
    try:
        return jax.export.deserialize(bytearray(file.read_bytes()))
    except Exception as error:  # Of flatbuffers, MLIR: whatever a broken or newer file raises.
        raise InputError(
            f"{file} can't be read ({type(error).__name__}: {error}). It was exported by JAX {made_by}, this is"
            f" JAX {jax.__version__}: export it again, or update JAX"
        ) from error
