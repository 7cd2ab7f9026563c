"""Writing an engine's programs as StableHLO, with its weights, into a folder."""

import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.export

from segblocks_jax.errors import InvalidInputError, TargetExistsError
from segblocks_jax.extras import extra
from segblocks_jax.inference.exported import MANIFEST, WEIGHTS, Manifest, write_weights
from segblocks_jax.inference.server import Program, Settings
from segblocks_jax.ops import extension
from segblocks_jax.systems.segblocks.programs import ModelPrograms
from segblocks_jax.whole_folder import whole_folder

PLATFORMS = ("cpu", "cuda")
_CUSTOM_CALL = re.compile(r"stablehlo\.custom_call @(\w+)")


def export_programs(
    folder: str | os.PathLike[str],
    programs: ModelPrograms,
    chosen: Sequence[Program],
    settings: Settings,
    platforms: Sequence[str],
) -> pathlib.Path:
    """Writes programs for `ExportedEngine`; the folder appears whole or not at all.

    Raises:
        FileExistsError: the folder exists.
        OSError: it can't be written.
        ValueError: an unknown platform.
        ModuleNotFoundError: flatbuffers is missing.
    """
    folder = pathlib.Path(folder)
    if folder.exists():
        raise TargetExistsError(f"export: {folder} exists; move it away, or give another folder")
    if not platforms or not set(platforms) <= set(PLATFORMS):
        raise InvalidInputError(
            f"export: platforms are {tuple(platforms)}; expected some of {PLATFORMS}"
        )
    _check_flatbuffers()
    with whole_folder(folder) as fresh:
        files, targets = {}, set()
        leaves = jax.tree.leaves(programs.weights)
        for program in chosen:
            exported = _export(programs, program, leaves, tuple(platforms))
            targets |= set(_CUSTOM_CALL.findall(exported.mlir_module())) & set(extension.TARGETS)
            name = _file_name(program)
            (fresh / name).write_bytes(exported.serialize())
            files[name] = program
        manifest = Manifest(
            settings=settings,
            programs=files,
            dtypes=write_weights(fresh / WEIGHTS, leaves),
            platforms=tuple(platforms),
            targets=tuple(sorted(targets)),
            spec=programs.spec.to_dict(),
        )
        (fresh / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return folder


def _export(
    programs: ModelPrograms,
    program: Program,
    leaves: Sequence[jax.Array],
    platforms: tuple[str, ...],
) -> jax.export.Exported:
    structure = jax.tree.structure(programs.weights)
    run = programs.function(program)

    # Only plain containers are known to whoever loads the program.
    def function(leaves: Sequence[jax.Array], *arguments: jax.Array) -> Any:
        return run(jax.tree.unflatten(structure, leaves), *arguments)

    checks = [jax.export.DisabledSafetyCheck.custom_call(name) for name in extension.TARGETS]
    specs = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    with programs.tracing():
        export = jax.export.export(jax.jit(function), platforms=platforms, disabled_checks=checks)
        return export(specs, *programs.arguments(program))


def _file_name(program: Program) -> str:
    size = "x".join(map(str, program.shape))
    parts = [program.kind, size]
    if program.kind in ("segment", "fixed"):
        parts.append(f"{program.num_high}_high")
    if program.kind != "decide":
        parts.append(program.output)
    return "_".join(parts) + ".jax_export"


def _check_flatbuffers() -> None:
    with extra("export", "export"):
        import flatbuffers  # noqa: F401
