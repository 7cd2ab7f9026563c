"""The training loop: steps, logs, evaluations, checkpoints."""

import collections
import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import rich.console
from flax import nnx

from segblocks_jax.progress import Progress, WaitShare
from segblocks_jax.training.checkpoints import Checkpoints
from segblocks_jax.training.logging import RunLog, check_finite, write_json
from segblocks_jax.training.preemption import Preempted, StopRequest
from segblocks_jax.training.profiling import Profiler
from segblocks_jax.training.sharding import is_first, on_one_device
from segblocks_jax.training.state import TrainState, learning_rate
from segblocks_jax.training.system import Batches, Evaluation, Metrics, Step, System
from segblocks_jax.training.workdir import Timing, describe

# Steps that the host may be ahead of the devices: hides its work, and a signal doesn't wait for many.
_AHEAD = 2


def say(line: str) -> None:
    """Tells people, on standard error, once for all processes."""
    if is_first():
        print(line, file=sys.stderr)


@contextlib.contextmanager
def shown(result: Evaluation | None) -> Iterator[None]:
    """Prints a result that can't be written, if there is one."""
    try:
        yield
    except OSError:
        if result is not None:
            say(str(result))
        raise


def trained_modules(graphdef: nnx.GraphDef, state: TrainState) -> nnx.Module:
    """The modules of a state, on one device."""
    return nnx.merge(graphdef, *on_one_device((state.params, state.stats)))


@dataclasses.dataclass(frozen=True)
class Run:
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
        """From step `first` to the last; the state and the evaluation there. A signal raises `Preempted`."""
        optim, loop = self.system.config.optim, self.system.config.loop
        total, waiting = optim.steps, WaitShare()
        result = self._make_up(state, first)
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
                every = (loop.log_every, loop.eval_every, loop.checkpoint_every)
                logs, evaluates, saves = (last or number % steps == 0 for steps in every)
                if logs or evaluates or saves or stops:
                    check_finite(metrics, number, self.checkpoints.folder)  # Before it is saved.
                note = ""
                if logs:
                    note = self._log(metrics, number, progress.images_per_second, waiting.share())
                progress.update(number, note)
                if stops and not last:
                    self._save(state, number, None)
                    self.checkpoints.wait()
                    raise Preempted(number)
                if evaluates:
                    result = self._evaluate(state, number)
                if saves:
                    self._save(state, number, result if evaluates else None)
                if evaluates or saves:
                    waiting.restart()
        assert result is not None
        return state, result

    def _make_up(self, state: TrainState, first: int) -> Evaluation | None:
        """Evaluates where the run goes on from, if it ended there, or was stopped before it could."""
        owed = first > 0 and first % self.system.config.loop.eval_every == 0
        scored = first > 0 and bool(self.checkpoints.metrics(first))
        if first < self.system.config.optim.steps and (scored or not owed):
            return None
        result = self._evaluate(state, first)
        if not scored:
            self.checkpoints.add_metrics(first, self._scores(result))
        return result

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
            if self.stop.asked:
                raise Preempted(number)
            show(batch, result)

        try:
            modules = trained_modules(self.graphdef, state)
            result = self.system.evaluate(modules, on_batch=on_batch)
        except BaseException:
            # Whatever stops an evaluation, the training is not lost; of several processes, whose saving
            # waits for all, only this one may be here.
            if jax.process_count() == 1 and number not in self.checkpoints.steps():
                self._save(state, number, None)
                self.checkpoints.wait()
            raise
        values = result.to_dict()
        numbers = {k: v for k, v in values.items() if v is not None and np.isfinite(v)}
        description = describe(self.system, result, number, self.pretrained)
        with shown(result):
            self.log.scalars(number, {f"eval/{name}": value for name, value in numbers.items()})
            if is_first():
                description["timing"] = self.timing.to_dict()
                write_json(self.workdir / f"eval_{number}.json", description)
        return result

    def _scores(self, result: Evaluation) -> dict[str, float]:
        best = self.system.main_metric
        return {best: result.to_dict()[best]}

    def _save(self, state: TrainState, number: int, result: Evaluation | None) -> None:
        extra = {
            "config": self.system.config.stored(),
            "batches": self.batches.get_state(),
            "pretrained": self.pretrained,
            "timing": self.timing.to_dict(),
        }
        scores = None if result is None else self._scores(result)
        with shown(result):
            self.checkpoints.save(number, state, extra, scores)
