"""Engines as ONNX files, by jax2onnx, for runtimes without JAX."""

import os
import pathlib

from segblocks_jax.errors import InputError, extra
from segblocks_jax.inference.server import Shape
from segblocks_jax.paths import expand
from segblocks_jax.systems.segblocks.engine import Engine
from segblocks_jax.systems.segblocks.modes import Mode


def export_onnx(
    engine: Engine,
    file: str | os.PathLike[str],
    shape: Shape,
    *,
    mode: str | None = None,
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
    with model.tracing():
        jax2onnx.to_onnx(
            lambda *arguments: run(model.weights, *arguments),
            list(model.arguments(programs[0])),
            return_mode="file",
            output_path=str(file),
        )
    return file
