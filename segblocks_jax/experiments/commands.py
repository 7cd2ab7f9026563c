"""The modes of an experiment: train, eval, speed, predict, export. Each returns an exit code."""

import pathlib
import shutil
import sys
from typing import Any

import jax
import rich.console

from segblocks_jax.errors import InputError
from segblocks_jax.paths import check_writable
from segblocks_jax.progress import Progress
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


def speed(system: System, output: pathlib.Path, size: tuple[int, int] | None = None) -> int:
    """Times the system's network, by default on images of its own size; prints a table and writes `speed.json`."""
    check_writable(output)
    report, text = system.speed(size)
    print(text)
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
    system: System,
    workdir: pathlib.Path,
    checkpoint: Any,
    source: str | None,
    output: pathlib.Path,
    **options: Any,
) -> int:
    """Runs on image and video files and writes what the system finds; 1 if a file failed.

    The checkpoint is a step, "latest" or "best"; `source` an image, a video, or a folder of both; `options` are the
    system's: see its `predict`.
    """
    if source is None:
        raise InputError("--mode=predict needs --input=IMAGE_VIDEO_OR_FOLDER")

    def load() -> Any:
        return load_modules(system, workdir, checkpoint)[0]

    return system.predict(load, source, output, settings={"workdir": str(workdir)}, **options)


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
