"""Training: opens all that a run needs, continues where the workdir left off, and takes the steps."""

import collections
import contextlib
import pathlib
from typing import Any

import jax
import numpy as np
import rich.console
from flax import nnx

from segblocks_jax.paths import check_writable
from segblocks_jax.progress import Progress, WaitShare
from segblocks_jax.training.checkpoint_files import remove_unfinished
from segblocks_jax.training.logging import check_finite, say, shown, write_json
from segblocks_jax.training.preemption import Preempted, StopRequest
from segblocks_jax.training.profiling import Profile, Profiler
from segblocks_jax.training.provenance import commit
from segblocks_jax.training.sharding import is_first, on_one_device
from segblocks_jax.training.state import create_optimizer, create_state, learning_rate
from segblocks_jax.training.steps import Metrics
from segblocks_jax.training.system import Evaluation, System
from segblocks_jax.training.workdir import (
    Timing,
    describe,
    load_pretrained,
    only_run,
    open_checkpoints,
    open_log,
)

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
        ValueError: the pretrained weights don't fit, or the profile's steps aren't in the run; nothing is written.
        FileExistsError: `export/` holds something else than a saved model.
        ModuleNotFoundError: `config.loop.wandb` is set and wandb is not installed.
        UnwritableError: the workdir can't be written.
        InUseError: another process trains in the workdir.
    """
    workdir = check_writable(workdir)
    system.check_export(workdir / "export")
    modules = system.build()
    pretrained = load_pretrained(system, modules, workdir)
    batches = system.train_batches((jax.process_index(), jax.process_count()))
    with (
        contextlib.closing(batches),
        only_run(workdir),
    ):  # Where data is missing, there is no workdir.
        if pretrained is not None:
            whose = f" ({pretrained['source']})" if pretrained.get("source") else ""
            parts = pretrained.get("parts", "backbone")
            say(f"{parts} weights from {{file}}, SHA-256 {{sha256}}".format(**pretrained) + whose)
        with contextlib.ExitStack() as stack:
            run = Run(system, modules, batches, pretrained, workdir, profile, stack)
            result = run.steps()
            with shown(result):
                run.checkpoints.wait()
        if is_first():
            with shown(result):
                system.export(run.modules()[0], workdir / "export")
        return result


class Run:
    """A training run with everything opened, to be closed by a stack."""

    def __init__(
        self,
        system: System,
        modules: nnx.Module,
        batches: Any,
        pretrained: dict[str, Any] | None,
        workdir: pathlib.Path,
        profile: Profile | None,
        stack: contextlib.ExitStack,
    ) -> None:
        self.system, self.workdir, self.pretrained = system, workdir, pretrained
        self.batches, config = batches, system.config
        optimizer = create_optimizer(config.optim, system.multipliers())
        average = config.optim.ema is not None
        self.graphdef, state = create_state(modules, optimizer, config.seed, average=average)
        self.step = system.train_step(self.graphdef, optimizer, say)
        commit()  # Kept: results name the code that runs, not what is committed meanwhile.
        self.stop = stack.enter_context(StopRequest())
        self.checkpoints = stack.enter_context(open_checkpoints(system, workdir))
        remove_unfinished(self.checkpoints.folder)
        self.state, self.first, self.timing = self.step.place(state), 0, Timing()
        self.calibration: tuple[int, dict[str, float] | None] = (-1, None)  # Of a step.
        if self.checkpoints.latest_step() is not None:
            self.state, extra, self.first = self.checkpoints.restore(self.state)
            self.batches.set_state(extra["batches"])
            self.pretrained = extra.get("pretrained")
            if (calibration := extra.get("calibration")) is not None:
                self.calibration = self.first, calibration
            self.timing = Timing.after(extra.get("timing"))
            say(
                f"continuing from step {self.first} in {self.checkpoints.folder}, after"
                f" {self.timing.before:.0f} s; start number {self.timing.starts}"
            )
        profile = profile and profile.of_run(self.first, config.optim.steps, say)
        self.log = stack.enter_context(open_log(system, workdir, self.first))
        self.profiler = stack.enter_context(Profiler(workdir, profile))
        if config.loop.warm_up:
            self.step.warm_up(self.state)

    def modules(self) -> tuple[nnx.Module, dict[str, float] | None]:
        """The modules of the state as they are evaluated and served, on one device; and their calibration."""
        modules = nnx.merge(self.graphdef, *on_one_device(self.state.served))
        step, known = self.calibration
        now = int(self.state.step)
        self.calibration = now, self.system.calibrate(modules, known if step == now else None)
        return modules, self.calibration[1]

    def steps(self) -> Evaluation:
        """Takes the steps up to the last and returns the evaluation there. A signal raises `Preempted`."""
        optim, loop = self.system.config.optim, self.system.config.loop
        first, total, waiting = self.first, optim.steps, WaitShare()
        result = self._make_up()
        running: collections.deque[Metrics] = collections.deque()
        console = rich.console.Console(stderr=True, quiet=not is_first())
        with Progress(
            "train", total, images_per_step=optim.batch_size, first_step=first, console=console
        ) as progress:
            for number in range(first + 1, total + 1):
                with waiting:
                    batch = next(self.batches)
                self.state, metrics = self.profiler.step(number, self.step, self.state, batch)
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
                    self._save(number, None)
                    self.checkpoints.wait()
                    raise Preempted(number)
                if evaluates:
                    result = self._evaluate(number)
                if saves:
                    self._save(number, result if evaluates else None)
                if evaluates or saves:
                    waiting.restart()
        assert result is not None
        return result

    def _make_up(self) -> Evaluation | None:
        """Evaluates where the run goes on from, if it ended there, or was stopped before it could."""
        first = self.first
        owed = first > 0 and first % self.system.config.loop.eval_every == 0
        scored = first > 0 and bool(self.checkpoints.metrics(first))
        if first < self.system.config.optim.steps and (scored or not owed):
            return None
        result = self._evaluate(first)
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

    def _evaluate(self, number: int) -> Evaluation:
        show = self.system.show(self.log, number)

        def on_batch(batch: Any, result: Any) -> None:
            if self.stop.asked:
                raise Preempted(number)
            show(batch, result)

        try:
            modules, calibration = self.modules()
            result = self.system.evaluate(modules, on_batch=on_batch)
        except BaseException:
            # Whatever stops an evaluation, the training is not lost; of several processes, whose saving
            # waits for all, only this one may be here.
            if jax.process_count() == 1 and number not in self.checkpoints.steps():
                self._save(number, None)
                self.checkpoints.wait()
            raise
        values = result.to_dict()
        numbers = {k: v for k, v in values.items() if v is not None and np.isfinite(v)}
        description = describe(self.system, result, number, self.pretrained)
        with shown(result):
            self.log.scalars(number, {f"eval/{name}": value for name, value in numbers.items()})
            if is_first():
                description["timing"] = self.timing.to_dict()
                if calibration is not None:
                    description["calibration"] = calibration
                write_json(self.workdir / f"eval_{number}.json", description)
        return result

    def _scores(self, result: Evaluation) -> dict[str, float]:
        best = self.system.main_metric
        return {best: result.to_dict()[best]}

    def _save(self, number: int, result: Evaluation | None) -> None:
        extra = {
            "config": self.system.config.stored(),
            "batches": self.batches.get_state(),
            "pretrained": self.pretrained,
            "timing": self.timing.to_dict(),
            "calibration": self.calibration[1] if self.calibration[0] == number else None,
        }
        scores = None if result is None else self._scores(result)
        with shown(result):
            self.checkpoints.save(number, self.state, extra, scores)
