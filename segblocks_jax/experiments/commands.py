"""The modes of an experiment: train, eval, speed, predict, export. Each returns an exit code."""

import pathlib
import shutil
import sys
from typing import Any

import jax
import rich.console

from segblocks_jax.data import images
from segblocks_jax.errors import InputError
from segblocks_jax.inference.predict import predict_inputs
from segblocks_jax.paths import check_writable
from segblocks_jax.progress import Progress
from segblocks_jax.systems.segblocks import speed as timing
from segblocks_jax.systems.segblocks.engine import Engine
from segblocks_jax.systems.segblocks.system import SegBlocks
from segblocks_jax.training import loop
from segblocks_jax.training.logging import write_json
from segblocks_jax.training.profiling import Profile
from segblocks_jax.training.sharding import is_first
from segblocks_jax.training.system import System
from segblocks_jax.training.workdir import describe, load_modules


def train(system: System, workdir: pathlib.Path, profile: Profile | None = None) -> int:
    """Trains, then prints the last evaluation."""
    result = loop.train(system, workdir, profile)
    if is_first():
        print(result)
        steps = system.config.optim.steps
        shutil.copyfile(workdir / f"eval_{steps}.json", workdir / "eval.json")
    return 0


def evaluate(
    system: System, workdir: pathlib.Path, checkpoint: Any, output: pathlib.Path | None = None
) -> int:
    """Evaluates a checkpoint; prints the scores and writes `eval.json`, by default to the workdir."""
    output = output or workdir
    check_writable(output)
    modules, step, pretrained = load_modules(system, workdir, checkpoint)
    done, total = 0, system.eval_size // jax.process_count()
    console = rich.console.Console(stderr=True, quiet=not is_first())
    with Progress("eval", total, images_per_step=1, console=console) as progress:

        def advance(batch: Any, _: Any) -> None:
            nonlocal done
            done += batch.count
            progress.update(done)

        result = system.evaluate(modules, on_batch=advance)
    description = describe(system, result, step, pretrained)
    if not is_first():
        return 0
    print(result)
    return _write(output / "eval.json", description)


def speed(system: SegBlocks, output: pathlib.Path, size: tuple[int, int]) -> int:
    """Times the dense network and the network in blocks; prints a table and writes `speed.json`."""
    check_writable(output)
    report = timing.measure(system.config, size, len(system.table.classes))
    print(timing.format_report(report))
    return _write(output / "speed.json", report)


def _write(path: pathlib.Path, value: Any) -> int:
    """Writes a result that is on the screen already; 1 where it can't be written."""
    try:
        write_json(path, value)
    except OSError as error:
        print(f"error: the result above is not in {path} ({error.strerror})", file=sys.stderr)
        return 1
    return 0


def predict(
    system: SegBlocks,
    workdir: pathlib.Path,
    checkpoint: Any,
    source: str | None,
    output: pathlib.Path,
    *,
    mode: str = "exact",
    shapes: tuple[tuple[int, int, int], ...] = (),
    batch_size: int = 1,
    side_by_side: bool = False,
    max_pixels: int = images.MAX_PIXELS,
) -> int:
    """Segments image and video files; writes label PNGs, overlays and grids. 1 if a file failed.

    The checkpoint is a step, "latest" or "best"; `source` an image, a video, or a folder of both. `mode` and
    `shapes` are as for `Engine`; `batch_size` pictures of one size are taken together; `side_by_side` writes
    input, labels and grid as one picture, too; images of more than `max_pixels` are refused.
    """
    if source is None:
        raise InputError("--mode=predict needs --input=IMAGE_VIDEO_OR_FOLDER")

    def engine() -> Engine:
        modules, _, _ = load_modules(system, workdir, checkpoint)
        return system.engine(modules, mode=mode, shapes=shapes, keep_memory=True)

    return predict_inputs(
        engine,
        system.table,
        [source],
        output,
        settings={"workdir": str(workdir)},
        overwrite=True,  # A run may have gone on, or be another one.
        max_pixels=max_pixels,
        batch_size=batch_size,
        side_by_side=side_by_side,
    )


def export(
    system: System, workdir: pathlib.Path, checkpoint: Any, output: pathlib.Path | None = None
) -> int:
    """Writes what a checkpoint holds to `export/`, where it is served from, by default in the workdir."""
    folder = (output or workdir) / "export"
    system.check_export(folder)
    modules, step, _ = load_modules(system, workdir, checkpoint)
    system.export(modules, folder)
    print(f"step {step} is in {folder}")
    return 0
