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

from segblocks_jax.progress import Progress, WaitShare
from segblocks_jax.training.checkpoints import Checkpoints
from segblocks_jax.training.logging import RunLog, check_finite, write_json
from segblocks_jax.training.optimizer import create_optimizer, learning_rate
from segblocks_jax.training.preemption import Preempted, StopRequest
from segblocks_jax.training.profiling import Profile, Profiler
from segblocks_jax.training.provenance import commit
from segblocks_jax.training.resume import Timing
from segblocks_jax.training.sharding import is_first, on_one_device
from segblocks_jax.training.state import TrainState, create_state
from segblocks_jax.training.system import Batches, Evaluation, Metrics, Step, System
from segblocks_jax.training.workdir import describe, load_pretrained, open_checkpoints

# Steps that the host may be ahead of the devices: hides its work, and a signal doesn't wait for many.
_AHEAD = 2


def train(system: System, workdir: pathlib.Path, profile: Profile | None = None) -> Evaluation:
    """Trains to the last step, continuing from the workdir's latest checkpoint where there is one.

    From step 0 it starts with the system's pretrained weights, if it has some. Writes to the workdir:
    `checkpoints/`, TensorBoard files, `metrics.jsonl`, `eval_STEP.json` and, at the end, `export/`; with a
    profile, `plugins/profile/`. Of several processes, which share the workdir, the first writes.

    Returns:
        The last evaluation.

    Raises:
        Preempted: SIGTERM or SIGINT asked to stop; the state is saved.
        ConfigError: the workdir holds a run of another configuration.
        NonFiniteError: a metric is NaN or infinite; the last checkpoint is as it was.
        FileNotFoundError: no such file of pretrained weights.
        ValueError: the pretrained weights don't fit, or the profile asks for steps that the run doesn't
            have; nothing is written.
        FileExistsError: `export/` holds something else than a saved model.
        ModuleNotFoundError: `config.loop.wandb` is set and wandb is not installed.
    """
    config = system.config
    system.check_export(workdir / "export")
    modules = system.build()
    pretrained = load_pretrained(system, modules, workdir)
    if pretrained is not None:
        _say("backbone weights from {file}, SHA-256 {sha256}".format(**pretrained))
    optimizer = create_optimizer(config.optim, system.multipliers())
    graphdef, state = create_state(modules, optimizer, config.seed)
    step = system.train_step(graphdef, optimizer, _say)
    commit()  # Kept: results name the code that runs, not what is committed meanwhile.
    with (
        StopRequest() as stop,
        contextlib.closing(
            system.train_batches((jax.process_index(), jax.process_count()))
        ) as batches,
        open_checkpoints(system, workdir) as checkpoints,
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
        profile = _checked(profile, first, config.optim.steps)
        with _open_log(workdir, system) as log, Profiler(workdir, profile) as profiler:
            if config.loop.warm_up:
                step.warm_up(state)
            run = _Run(
                system=system,
                graphdef=graphdef,
                step=step,
                batches=batches,
                workdir=workdir,
                checkpoints=checkpoints,
                log=log,
                pretrained=pretrained,
                stop=stop,
                timing=timing,
                profiler=profiler,
            )
            state, result = run.steps(state, first)
    if is_first():
        system.export(_modules(graphdef, state), workdir / "export")
    return result


def _say(line: str) -> None:
    if is_first():
        print(line, file=sys.stderr)


def _checked(profile: Profile | None, first: int, last: int) -> Profile | None:
    """The profile of a run that goes on from step `first`; none where that is past it."""
    if profile is not None and first >= profile.first:
        _say(f"--profile: step {profile.first} is past; nothing is traced")
        return None
    if profile is not None:
        profile.check(first + 1, last)
    return profile


@contextlib.contextmanager
def _open_log(workdir: pathlib.Path, system: System) -> Iterator[RunLog]:
    """Of several processes all log, as what they log takes all of them; the first one's is kept."""
    with contextlib.ExitStack() as stack:
        folder, project = workdir, system.config.loop.wandb
        if not is_first():
            folder, project = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())), None
        yield stack.enter_context(RunLog(folder, wandb=project, config=system.config.to_dict()))


def _modules(graphdef: nnx.GraphDef, state: TrainState) -> nnx.Module:
    return nnx.merge(graphdef, *on_one_device((state.params, state.stats)))


@dataclasses.dataclass(frozen=True)
class _Run:
    """A training run with everything opened."""

    system: System
    graphdef: nnx.GraphDef
    step: Step
    batches: Batches
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
        optim, loop = self.system.config.optim, self.system.config.loop
        total, waiting = optim.steps, WaitShare()
        result = self._evaluate(state, first) if first == total else None
        running: collections.deque[Metrics] = collections.deque()
        console = rich.console.Console(stderr=True, quiet=not is_first())
        with Progress(
            "train", total, images_per_step=optim.batch_size, first_step=first, console=console
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
        note = self.system.note(values)
        rate = float(learning_rate(self.system.config.optim)(number - 1))
        values["learning_rate"] = rate
        for part, multiplier in self.system.multipliers().items():
            values[f"learning_rate_{part.rpartition('/')[2]}"] = rate * multiplier
        values["images_per_second"] = images_per_second
        values["images_per_second_per_device"] = images_per_second / jax.device_count()
        values["data_wait_share"] = data_wait
        values["executables"] = len(self.step.compiled)
        self.log.scalars(number, {f"train/{name}": value for name, value in values.items()})
        return note

    def _evaluate(self, state: TrainState, number: int) -> Evaluation:
        show = self.system.show(self.log, number)

        def on_batch(batch: Any, result: Any) -> None:
            self._stop_at(number)
            show(batch, result)

        try:
            modules = _modules(self.graphdef, state)
            result = self.system.evaluate(modules, on_batch=on_batch)
        except BaseException:
            # Whatever stops an evaluation, the training is not lost; of several processes, whose saving
            # waits for all, only this one may be here.
            if jax.process_count() == 1 and number not in self.checkpoints.steps():
                self._save(state, number, None)
            raise
        values = result.to_dict()
        numbers = {k: v for k, v in values.items() if v is not None and np.isfinite(v)}
        self.log.scalars(number, {f"eval/{name}": value for name, value in numbers.items()})
        description = describe(self.system, result, number, self.pretrained)
        if is_first():
            description["timing"] = self.timing.to_dict()
            write_json(self.workdir / f"eval_{number}.json", description)
        return result

    def _stop_at(self, number: int, *_: Any) -> None:
        if self.stop.asked:
            raise Preempted(number)

    def _save(self, state: TrainState, number: int, result: Evaluation | None) -> None:
        extra = {
            "config": self.system.config.stored(),
            "batches": self.batches.get_state(),
            "pretrained": self.pretrained,
            "timing": self.timing.to_dict(),
        }
        best = self.system.main_metric
        scores = None if result is None else {best: result.to_dict()[best]}
        self.checkpoints.save(number, state, extra, scores)
