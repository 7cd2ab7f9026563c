"""The training loop: steps, logs, evaluations, checkpoints; continues where the workdir left off."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
from absl import logging
from flax import nnx

from segblocks_jax.data import Augmentation, SegmentationSource, train_batches
from segblocks_jax.training.checkpoints import Checkpoints
from segblocks_jax.training.config import ExperimentConfig
from segblocks_jax.training.evaluate import Evaluation, evaluate
from segblocks_jax.training.logging import Progress, RunLog, check_finite, commit, write_json
from segblocks_jax.training.optimizer import create_optimizer, learning_rate
from segblocks_jax.training.state import TrainState, create_state, create_system
from segblocks_jax.training.step import TrainStep


def train(
    config: ExperimentConfig,
    train_source: SegmentationSource,
    eval_source: SegmentationSource,
    workdir: pathlib.Path,
) -> Evaluation:
    """Trains to the last step, continuing from the workdir's latest checkpoint where there is one.

    Writes to the workdir: `checkpoints/`, TensorBoard files and `metrics.jsonl`, and `eval_STEP.json`.

    Returns:
        The last evaluation.

    Raises:
        NonFiniteError: a metric is NaN or infinite; the last checkpoint is as it was.
        ValueError: the workdir holds a run of another model.
    """
    system = create_system(config, len(train_source.table.classes))
    optimizer = create_optimizer(config.optim)
    graphdef, state = create_state(system, optimizer, config.seed)
    step = TrainStep(graphdef, optimizer, config, train_source.normalisation)
    batches = train_batches(
        train_source,
        _augmentation(config),
        config.optim.batch_size,
        config.seed,
        workers=config.data.workers,
    )
    rate = learning_rate(config.optim)
    loop = config.loop
    folder = workdir / "checkpoints"
    with (
        Checkpoints(folder, model=config.model.name, keep=loop.keep_checkpoints) as checkpoints,
        RunLog(workdir) as log,
    ):
        state, first = _restore(checkpoints, step.place(state), batches)
        result = None
        progress = Progress(
            "train", config.optim.steps, images_per_step=config.optim.batch_size, first_step=first
        )
        with progress:
            for number in range(first + 1, config.optim.steps + 1):
                state, metrics = step(state, next(batches))
                last = number == config.optim.steps
                if last or number % loop.log_every == 0:
                    values = {name: float(value) for name, value in metrics.items()}
                    check_finite(values, number, folder)
                    values["learning_rate"] = float(rate(number - 1))
                    values["images_per_second"] = progress.images_per_second
                    values["executables"] = len(step.compiled)
                    log.scalars(number, {f"train/{name}": v for name, v in values.items()})
                    progress.update(number, _note(values))
                else:
                    progress.update(number)
                evaluated = last or number % loop.eval_every == 0
                if evaluated:
                    trained = nnx.merge(graphdef, state.params, state.stats)
                    result = evaluate(trained, eval_source, config)
                    _report(result, eval_source, config, workdir, number, log)
                if last or number % loop.checkpoint_every == 0:
                    extra = {"config": config.to_dict(), "batches": batches.get_state()}
                    scores = {"miou": result.scores.mean_iou} if evaluated and result else None
                    checkpoints.save(number, state, extra, scores)
    batches.close()
    if result is None:
        trained = nnx.merge(graphdef, state.params, state.stats)
        result = evaluate(trained, eval_source, config)
    return result


def load_system(
    config: ExperimentConfig, num_classes: int, workdir: pathlib.Path, step: Any = "latest"
) -> tuple[nnx.Dict, int]:
    """Builds the experiment's system with the weights of a checkpoint in the workdir.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: the checkpoint is of another model; tells every difference.
    """
    system = create_system(config, num_classes)
    graphdef, state = create_state(system, create_optimizer(config.optim), config.seed)
    with Checkpoints(workdir / "checkpoints", model=config.model.name) as checkpoints:
        state, _, step = checkpoints.restore(state, step)
    return nnx.merge(graphdef, state.params, state.stats), step


def _restore(checkpoints: Checkpoints, state: TrainState, batches: Any) -> tuple[TrainState, int]:
    if checkpoints.latest_step() is None:
        return state, 0
    state, extra, step = checkpoints.restore(state)
    batches.set_state(extra["batches"])
    logging.info("continuing from step %d in %s", step, checkpoints.folder)
    return state, step


def _augmentation(config: ExperimentConfig) -> Augmentation:
    data = config.data
    return Augmentation(
        crop=data.crop,
        scale=data.scale,
        flip=data.flip,
        brightness=data.jitter,
        contrast=data.jitter,
        saturation=data.jitter,
        hue=data.hue,
    )


def _note(values: dict[str, float]) -> str:
    parts = [f"loss {values['loss_task']:.3f}"]
    if "share_high" in values:
        parts.append(f"high {values['share_high']:.0%}")
    return ", ".join(parts)


def _report(
    result: Evaluation,
    source: SegmentationSource,
    config: ExperimentConfig,
    workdir: pathlib.Path,
    step: int,
    log: RunLog,
) -> None:
    values = result.to_dict(source.table.classes)
    numbers = {k: v for k, v in values.items() if isinstance(v, (int, float)) and np.isfinite(v)}
    log.scalars(step, {f"eval/{name}": value for name, value in numbers.items()})
    write_json(workdir / f"eval_{step}.json", describe(result, source, config, step))


def describe(
    result: Evaluation, source: SegmentationSource, config: ExperimentConfig, step: int
) -> dict[str, Any]:
    """An evaluation with all that is needed to repeat it, for JSON."""
    return {
        "experiment": config.name,
        "step": step,
        "split": f"{source.name}/{source.split}",
        "metrics": result.to_dict(source.table.classes),
        "config": dataclasses.asdict(config),
        "commit": commit(),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
