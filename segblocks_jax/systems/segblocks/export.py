"""Writing an engine's programs: as StableHLO, with its weights, into a folder; or as an ONNX file."""

import os
import pathlib
from collections.abc import Sequence

import jax

from segblocks_jax.errors import InputError, extra
from segblocks_jax.inference.programs import checksums, export_target, serialize, write_weights
from segblocks_jax.inference.server import Shape
from segblocks_jax.paths import expand, whole_folder
from segblocks_jax.systems.segblocks.engine import Engine
from segblocks_jax.systems.segblocks.exported import MANIFEST, WEIGHTS, Manifest
from segblocks_jax.systems.segblocks.programs import ModelPrograms
from segblocks_jax.systems.segblocks.settings import Mode, Program, Settings


def export_programs(
    folder: str | os.PathLike[str],
    programs: ModelPrograms,
    chosen: Sequence[Program],
    settings: Settings,
    platforms: Sequence[str],
) -> pathlib.Path:
    """Writes programs for `ExportedEngine`; the folder appears whole or not at all. Raises as `Engine.export`."""
    folder = export_target(folder, platforms)
    with whole_folder(folder) as fresh:
        targets: set[str] = set()
        leaves = jax.tree.leaves(programs.weights)
        for program in chosen:
            content, called = _serialized(programs, program, leaves, platforms)
            (fresh / _file_name(program)).write_bytes(content)
            targets |= called
        manifest = Manifest(
            settings=settings,
            programs={_file_name(program): program for program in chosen},
            dtypes=write_weights(fresh / WEIGHTS, leaves),
            platforms=tuple(platforms),
            targets=tuple(sorted(targets)),
            spec=programs.spec.to_dict(),
            sha256=checksums(fresh),
        )
        (fresh / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return folder


def _serialized(
    programs: ModelPrograms, program: Program, leaves: Sequence[jax.Array], platforms: Sequence[str]
) -> tuple[bytes, set[str]]:
    with programs.tracing():
        return serialize(
            programs.flat_function(program), leaves, programs.arguments(program), platforms
        )


def _file_name(program: Program) -> str:
    size = "x".join(map(str, program.shape))
    parts = [program.kind, size]
    if program.kind in ("segment", "fixed"):
        parts.append(f"{program.num_high}_high")
    if program.kind != "decide":
        parts.append(program.output)
    return "_".join(parts) + ".jax_export"


def export_onnx(
    engine: Engine, file: str | os.PathLike[str], shape: Shape, *, mode: str | None = None
) -> pathlib.Path:
    """Writes the program of a mode, weights included, as one ONNX file that gives logits.

    Its inputs are those of `segblocks_jax.systems.segblocks.settings.Program`: images (n, h, w, 3) uint8 and, in
    blocks, valid (3,) int32 and seed () uint32. Its outputs are the logits and, in blocks, mask and
    scores. Labels are left to the caller: jax2onnx 0.17 writes the loop of `upsample_argmax` wrongly.

    Args:
        engine: with execution "xla", which calls no handlers.
        file: to write; its folder must exist.
        shape: (n, h, w), whole blocks.
        mode: "budget=K" or "share=F"; ignored without blocks. Default: the engine's.

    Raises:
        ValueError: another execution, or a mode whose number of blocks depends on the image.
        ModuleNotFoundError: jax2onnx is missing.
    """
    if engine.execution != "xla":
        raise InputError(
            f"export_onnx: the engine's execution is {engine.execution!r}; ONNX has no custom calls: build"
            " the engine with execution='xla'"
        )
    chosen = engine.mode if mode is None else Mode.parse(mode)
    programs = engine.settings.programs(shape, chosen, "logits")
    if len(programs) != 1:
        raise InputError(
            f"export_onnx: mode {chosen.kind!r} takes {len(programs)} programs and a host that picks one;"
            " give mode='budget=K' or 'share=F'"
        )
    file = expand(file)
    with extra("onnx", "export_onnx"):
        import jax2onnx
    model = engine.model_programs
    run = model.function(programs[0])
    try:
        with model.tracing():
            jax2onnx.to_onnx(
                lambda *arguments: run(model.weights, *arguments),
                list(model.arguments(programs[0])),
                return_mode="file",
                output_path=str(file),
            )
    finally:
        # What was traced for ONNX consists of operations that only jax2onnx knows.
        jax.clear_caches()
    return file
