"""The modes of an experiment: train, eval, speed, predict, export. Each returns an exit code."""

import dataclasses
import pathlib
import shutil
from typing import Any

import jax
import rich.console
from absl import logging

from segblocks_jax.data import DATASETS, SegmentationSource, images, label_table
from segblocks_jax.errors import InvalidInputError
from segblocks_jax.inference import files
from segblocks_jax.inference import predict as prediction
from segblocks_jax.progress import Progress
from segblocks_jax.systems.segblocks import evaluation
from segblocks_jax.systems.segblocks import speed as timing
from segblocks_jax.systems.segblocks.build import complete_spec
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.systems.segblocks.engine import Engine
from segblocks_jax.training import loop
from segblocks_jax.training.logging import write_json
from segblocks_jax.training.profiling import Profile
from segblocks_jax.training.sharding import is_first


def train(
    config: ExperimentConfig,
    train_source: SegmentationSource,
    eval_source: SegmentationSource,
    workdir: pathlib.Path,
    profile: Profile | None = None,
) -> int:
    """Trains, then prints the last evaluation."""
    result = loop.train(config, train_source, eval_source, workdir, profile)
    if is_first():
        shutil.copyfile(workdir / f"eval_{config.optim.steps}.json", workdir / "eval.json")
        print(format_evaluation(result, eval_source.table.classes))
    return 0


def evaluate(
    config: ExperimentConfig, source: SegmentationSource, workdir: pathlib.Path, checkpoint: Any
) -> int:
    """Evaluates a checkpoint; writes `eval.json` and prints the scores."""
    classes = source.table.classes
    system, step = loop.load_system(config, len(classes), workdir, checkpoint)
    done = 0
    images = len(source) // jax.process_count()
    console = rich.console.Console(stderr=True, quiet=not is_first())
    with Progress("eval", images, images_per_step=1, console=console) as progress:

        def advance(batch: Any, _: Any) -> None:
            nonlocal done
            done += batch.count
            progress.update(done)

        result = evaluation.evaluate(system, source, config, on_batch=advance)
    pretrained = loop.read_pretrained(config, workdir, step)
    if is_first():
        write_json(workdir / "eval.json", loop.describe(result, source, config, step, pretrained))
        print(format_evaluation(result, classes))
    return 0


def speed(config: ExperimentConfig, workdir: pathlib.Path, size: tuple[int, int]) -> int:
    """Times the dense network and the network in blocks; writes `speed.json` and prints a table."""
    classes = label_table(config.data.dataset, config.data.data_dir).classes
    report = timing.measure(config, size, len(classes))
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / "speed.json", report)
    print(timing.format_report(report))
    return 0


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What `predict` is to do.

    Attributes:
        source: an image, a video, or a folder of both.
        output: folder for the results.
        mode: how many blocks run high, see `segblocks_jax.systems.segblocks.modes.Mode`.
        shapes: (n, h, w) that images are padded to, so that many sizes need few programs.
        batch_size: pictures of one size that are segmented together.
        side_by_side: writes input, labels and grid as one picture, too.
        max_pixels: images of more are refused.
    """

    source: str | None
    output: pathlib.Path
    mode: str = "exact"
    shapes: tuple[tuple[int, int, int], ...] = ()
    batch_size: int = 1
    side_by_side: bool = False
    max_pixels: int = 2**28


def predict(
    config: ExperimentConfig, workdir: pathlib.Path, checkpoint: Any, options: Prediction
) -> int:
    """Segments image and video files; writes label PNGs, overlays and grids. 1 if a file failed."""
    if options.source is None:
        raise InvalidInputError("--mode=predict needs --input=IMAGE_VIDEO_OR_FOLDER")
    images.allow_pixels(options.max_pixels)
    found = files.find_files(pathlib.Path(options.source), options.output)
    dataset = config.data.dataset
    table = label_table(dataset, config.data.data_dir)
    system, _ = loop.load_system(config, len(table.classes), workdir, checkpoint)
    engine = Engine(
        system,
        complete_spec(config, table, DATASETS[dataset].normalization),
        dtype=config.precision,
        mode=options.mode,
        shapes=options.shapes,
        keep_memory=True,
    )
    failed = prediction.predict_files(
        engine,
        table,
        found,
        options.output,
        batch_size=options.batch_size,
        side_by_side=options.side_by_side,
    )
    done = len(found) - len(failed)
    print(f"{done} of {len(found)} files segmented; results in {options.output}")
    for name, reason in failed:
        logging.error("%s: %s", name, reason)
    return 1 if failed else 0


def export(config: ExperimentConfig, workdir: pathlib.Path, checkpoint: Any) -> int:
    """Writes a checkpoint's network and policy to `export/`, which `load_model` reads."""
    dataset = config.data.dataset
    table = label_table(dataset, config.data.data_dir)
    system, step = loop.load_system(config, len(table.classes), workdir, checkpoint)
    loop.export(system, config, table, DATASETS[dataset].normalization, workdir / "export")
    print(f"step {step} is in {workdir / 'export'}")
    return 0


def format_evaluation(result: evaluation.Evaluation, classes: tuple[str, ...]) -> str:
    """The scores as a text table."""
    width = max(map(len, classes)) + 2
    lines = [
        f"{name:{width}}{value:7.2%}"
        for name, value in zip(classes, result.scores.class_iou, strict=True)
    ]
    lines.append(f"{'mIoU':{width}}{result.scores.mean_iou:7.2%}")
    lines.append(f"GMACs an image: {result.gmacs:.3f} (mean over {result.images} real grids)")
    if result.high_fraction is not None:
        lines.append(f"share of high blocks: {result.high_fraction:.1%}")
    if result.boundary_ratio is not None:
        lines.append(f"label-boundary density, high blocks over low: {result.boundary_ratio:.2f}")
    if result.images_per_second is not None:
        lines.append(f"images/s: {result.images_per_second:.2f}")
    return "\n".join(lines)
