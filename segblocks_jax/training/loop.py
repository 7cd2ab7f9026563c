"""The training loop: steps, logs, evaluations, checkpoints; continues where the workdir left off."""

import collections
import contextlib
import dataclasses
import pathlib
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import rich.console
from flax import nnx

from segblocks_jax.data import (
    EvalBatch,
    Normalization,
    SegmentationSource,
    TrainBatches,
    train_batches,
)
from segblocks_jax.interop import check_target, load_backbone, save_model
from segblocks_jax.progress import Progress, WaitShare
from segblocks_jax.systems.segblocks.build import complete_spec, create_system
from segblocks_jax.systems.segblocks.callbacks import EvalPictures
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.systems.segblocks.evaluation import Evaluation, evaluate
from segblocks_jax.systems.segblocks.step import Metrics, TrainStep
from segblocks_jax.tasks.segmentation.labels import LabelTable
from segblocks_jax.tasks.segmentation.result import Segmentation
from segblocks_jax.training.checkpoints import Checkpoints
from segblocks_jax.training.logging import RunLog, check_finite, write_json
from segblocks_jax.training.optimizer import create_optimizer, learning_rate
from segblocks_jax.training.preemption import Preempted, StopRequest
from segblocks_jax.training.profiling import Profile, Profiler
from segblocks_jax.training.provenance import commit, device_name
from segblocks_jax.training.resume import Timing, check_same_config
from segblocks_jax.training.sharding import is_first, on_one_device
from segblocks_jax.training.state import TrainState, create_state

# Steps that the host may be ahead of the devices: hides its work, and a signal doesn't wait for many.
_AHEAD = 2


def train(
    config: ExperimentConfig,
    train_source: SegmentationSource,
    eval_source: SegmentationSource,
    workdir: pathlib.Path,
    profile: Profile | None = None,
) -> Evaluation:
    """Trains to the last step, continuing from the workdir's latest checkpoint where there is one.

    From step 0 it starts with the backbone weights of `config.model.pretrained`, if that is set. Writes to
    the workdir: `checkpoints/`, TensorBoard files, `metrics.jsonl`, `eval_STEP.json` and, at the end,
    `export/`, which `load_model` reads; with a profile, `plugins/profile/`. Of several processes, which
    share the workdir, the first writes.

    Returns:
        The last evaluation.

    Raises:
        Preempted: SIGTERM or SIGINT asked to stop; the state is saved.
        ConfigError: the workdir holds a run of another configuration.
        NonFiniteError: a metric is NaN or infinite; the last checkpoint is as it was.
        FileNotFoundError: no such file of backbone weights.
        ValueError: the backbone weights don't fit, or the profile asks for steps that the run doesn't
            have; nothing is written.
        FileExistsError: `export/` holds something else than a saved model.
        ModuleNotFoundError: `config.loop.wandb` is set and wandb is not installed.
    """
    target = check_target(workdir / "export")
    system = create_system(config, len(train_source.table.classes))
    pretrained = load_pretrained(config, system, workdir)
    if pretrained is not None:
        _say("backbone weights from {file}, SHA-256 {sha256}".format(**pretrained))
    optimizer = create_optimizer(config.optim)
    graphdef, state = create_state(system, optimizer, config.seed)
    step = TrainStep(graphdef, optimizer, config, train_source.normalization, report=_say)
    batches = train_batches(
        train_source,
        config.data.augmentation(),
        config.optim.batch_size,
        config.seed,
        workers=config.data.workers,
        shard=(jax.process_index(), jax.process_count()),
    )
    commit()  # Kept: results name the code that runs, not what is committed meanwhile.
    keep = config.loop.keep_checkpoints
    folder = workdir / "checkpoints"
    with (
        StopRequest() as stop,
        contextlib.closing(batches),
        Checkpoints(folder, model=config.model.name, keep=keep) as checkpoints,
    ):
        state, first, timing = step.place(state), 0, Timing()
        if checkpoints.latest_step() is not None:
            state, extra, first = checkpoints.restore(state)
            batches.set_state(extra["batches"])
            pretrained = extra.get("pretrained")
            timing = Timing.after(extra.get("timing"))
            _say(
                f"continuing from step {first} in {checkpoints.folder}, after"
                f" {timing.before:.0f} s; start number {timing.starts}"
            )
        if profile is not None and first >= profile.first:
            _say(f"--profile: step {profile.first} is past; nothing is traced")
            profile = None
        if profile is not None:
            profile.check(first + 1, config.optim.steps)
        with _open_log(workdir, config) as log, Profiler(workdir, profile) as profiler:
            if config.loop.warm_up:
                step.warm_up(state)
            run = _Run(
                config,
                graphdef,
                step,
                batches,
                eval_source,
                workdir,
                checkpoints,
                log,
                pretrained,
                stop,
                timing,
                profiler,
            )
            state, result = run.steps(state, first)
    if is_first():
        system = nnx.merge(graphdef, *on_one_device((state.params, state.stats)))
        export(system, config, train_source.table, train_source.normalization, target)
    return result


def _say(line: str) -> None:
    if is_first():
        print(line, file=sys.stderr)


@contextlib.contextmanager
def _open_log(workdir: pathlib.Path, config: ExperimentConfig) -> Iterator[RunLog]:
    """Of several processes all log, as what they log takes all of them; the first one's is kept."""
    with contextlib.ExitStack() as stack:
        folder, project = workdir, config.loop.wandb
        if not is_first():
            folder, project = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())), None
        yield stack.enter_context(RunLog(folder, wandb=project, config=config.to_dict()))


def load_pretrained(
    config: ExperimentConfig, system: nnx.Dict, workdir: pathlib.Path
) -> dict[str, str] | None:
    """Loads the experiment's backbone weights into a system, abstract or not.

    A run that continues from a checkpoint, and one without `config.model.pretrained`, loads none.

    Returns:
        `file` and `sha256` of what was loaded, or None.

    Raises:
        ConfigError: the workdir holds a run of another configuration.
        FileNotFoundError: no such file.
        ValueError: it doesn't fit the backbone; lists every name.
    """
    with Checkpoints(workdir / "checkpoints", model=config.model.name) as checkpoints:
        if checkpoints.latest_step() is not None:
            stored = checkpoints.read_extra()["config"]
            check_same_config(stored, config, checkpoints.folder)
            return None
    if config.model.pretrained is None:
        return None
    return load_backbone(system.net, config.model.pretrained)


@dataclasses.dataclass(frozen=True)
class _Run:
    """A training run with everything opened."""

    config: ExperimentConfig
    graphdef: nnx.GraphDef
    step: TrainStep
    batches: TrainBatches
    eval_source: SegmentationSource
    workdir: pathlib.Path
    checkpoints: Checkpoints
    log: RunLog
    pretrained: dict[str, str] | None
    stop: StopRequest
    timing: Timing
    profiler: Profiler

    def steps(self, state: TrainState, first: int) -> tuple[TrainState, Evaluation]:
        """From step `first` to the last; the state and the evaluation there.

        Raises:
            Preempted: a signal asked to stop.
        """
        total, loop = self.config.optim.steps, self.config.loop
        result = self._evaluate(state, first) if first == total else None
        images, waiting = self.config.optim.batch_size, WaitShare()
        running: collections.deque[Metrics] = collections.deque()
        console = rich.console.Console(stderr=True, quiet=not is_first())
        with Progress(
            "train", total, images_per_step=images, first_step=first, console=console
        ) as progress:
            for number in range(first + 1, total + 1):
                with waiting:
                    batch = next(self.batches)
                state, metrics = self.profiler.step(number, self.step, state, batch)
                running.append(metrics)
                if len(running) > _AHEAD:
                    jax.block_until_ready(running.popleft())
                last, stops = number == total, self.stop.at(number)
                due = (loop.log_every, loop.eval_every, loop.checkpoint_every)
                if last or stops or any(number % every == 0 for every in due):
                    check_finite(metrics, number, self.checkpoints.folder)  # Before it is saved.
                note = ""
                if last or number % loop.log_every == 0:
                    note = self._log(metrics, number, progress.images_per_second, waiting.share())
                progress.update(number, note)
                if stops and not last:
                    self._save(state, number, None)
                    raise Preempted(number)
                evaluates = last or number % loop.eval_every == 0
                if evaluates:
                    result = self._evaluate(state, number)
                if last or number % loop.checkpoint_every == 0:
                    self._save(state, number, result if evaluates else None)
                if last or evaluates or number % loop.checkpoint_every == 0:
                    waiting.restart()
        assert result is not None
        return state, result

    def _log(
        self, metrics: Metrics, number: int, images_per_second: float, data_wait: float
    ) -> str:
        values = {name: float(value) for name, value in metrics.items()}
        optim = self.config.optim
        rate = float(learning_rate(optim)(number - 1))
        values["learning_rate"] = rate
        values["learning_rate_backbone"] = rate * optim.backbone_multiplier
        if self.config.policy.name == "reinforce":
            values["learning_rate_policy"] = rate * optim.policy_multiplier
        values["images_per_second"] = images_per_second
        values["images_per_second_per_device"] = images_per_second / self.step.mesh.size
        values["data_wait_share"] = data_wait
        values["executables"] = len(self.step.compiled)
        self.log.scalars(number, {f"train/{name}": value for name, value in values.items()})
        share = f", high {values['high_fraction']:.0%}" if "high_fraction" in values else ""
        return f"loss {values['loss_task']:.3f}{share}"

    def _evaluate(self, state: TrainState, number: int) -> Evaluation:
        system = nnx.merge(self.graphdef, *on_one_device((state.params, state.stats)))
        table, count = self.eval_source.table, self.config.loop.eval_pictures
        learned = self.config.policy.name == "reinforce"
        pictures = EvalPictures(self.log, number, table, count, learned)

        def on_batch(batch: EvalBatch, result: Segmentation) -> None:
            self._stop_at(number)
            pictures(batch, result)

        try:
            result = evaluate(system, self.eval_source, self.config, on_batch=on_batch)
        except BaseException:
            # Whatever stops an evaluation, the training is not lost; of several processes, whose saving
            # waits for all, only this one may be here.
            if jax.process_count() == 1 and number not in self.checkpoints.steps():
                self._save(state, number, None)
            raise
        values = result.to_dict(table.classes)
        numbers = {k: v for k, v in values.items() if v is not None and np.isfinite(v)}
        self.log.scalars(number, {f"eval/{name}": value for name, value in numbers.items()})
        description = describe(result, self.eval_source, self.config, number, self.pretrained)
        if is_first():
            description["timing"] = self.timing.to_dict()
            write_json(self.workdir / f"eval_{number}.json", description)
        return result

    def _stop_at(self, number: int, *_: Any) -> None:
        if self.stop.asked:
            raise Preempted(number)

    def _save(self, state: TrainState, number: int, result: Evaluation | None) -> None:
        extra = {
            "config": self.config.stored(),
            "batches": self.batches.get_state(),
            "pretrained": self.pretrained,
            "timing": self.timing.to_dict(),
        }
        scores = None if result is None else {"miou": result.scores.mean_iou}
        self.checkpoints.save(number, state, extra, scores)


def read_pretrained(
    config: ExperimentConfig, workdir: pathlib.Path, step: Any = "latest"
) -> dict[str, str] | None:
    """File and SHA-256 of the backbone weights that the run of a checkpoint began with, or None."""
    with Checkpoints(workdir / "checkpoints", model=config.model.name) as checkpoints:
        return checkpoints.read_extra(step).get("pretrained")


def export(
    system: nnx.Dict,
    config: ExperimentConfig,
    table: LabelTable,
    normalization: Normalization,
    folder: pathlib.Path,
) -> None:
    """Writes a trained system to a folder that `load_model` reads.

    Raises:
        FileExistsError: the folder holds something else than a saved model.
    """
    save_model(folder, system, complete_spec(config, table, normalization))


def load_system(
    config: ExperimentConfig, num_classes: int, workdir: pathlib.Path, step: Any = "latest"
) -> tuple[nnx.Dict, int]:
    """Builds the experiment's system with the weights of a checkpoint in the workdir.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: the checkpoint is of another model; tells every difference.
    """
    with Checkpoints(workdir / "checkpoints", model=config.model.name) as checkpoints:
        checkpoints.read_extra(step)  # Tells what is missing before a network is built.
        system = create_system(config, num_classes)
        graphdef, state = create_state(system, create_optimizer(config.optim), config.seed)
        state, _, step = checkpoints.restore(state, step)
    return nnx.merge(graphdef, state.params, state.stats), step


def describe(
    result: Evaluation,
    source: SegmentationSource,
    config: ExperimentConfig,
    step: int,
    pretrained: dict[str, str] | None,
) -> dict[str, Any]:
    """An evaluation with all that is needed to repeat it, for JSON.

    `pretrained` is what `load_pretrained` gave, when the run began.
    """
    return {
        "experiment": config.name,
        "step": step,
        "split": f"{source.name}/{source.split}",
        "metrics": result.to_dict(source.table.classes),
        # Without the folder of one machine's data.
        "config": {
            **config.stored(),
            "data": {**dataclasses.asdict(config.data), "data_dir": None},
        },
        "pretrained": pretrained,
        "commit": commit(),
        "device": device_name(),
        "devices": jax.device_count(),
        "jax": jax.__version__,
    }
