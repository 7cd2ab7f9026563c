"""Checkpoints of a training run, on Orbax: kept by age and by score, refused where they don't fit.

Beside the arrays lies a record of every entry's shape and dtype. So a state is compared with the
model that asks for it before any array is read, and what differs is told all at once.
"""

import contextlib
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import orbax.checkpoint as ocp

from segblocks_jax.errors import InputError, MissingFileError, TargetExistsError
from segblocks_jax.paths import expand
from segblocks_jax.training import checkpoint_files as files
from segblocks_jax.training import flat_state
from segblocks_jax.training.logging import write_json
from segblocks_jax.training.sharding import gather, is_first

Step = int | Literal["latest", "best"]


class Checkpoints:
    """The checkpoints in one folder, for one model; a context manager that waits on leaving.

    Saving runs in the background and becomes visible by a rename when complete, so an interrupted
    save leaves the earlier checkpoints as they were and is never restored.
    """

    def __init__(self, folder: Path | str, *, model: str, keep: int = 3, best_metric: str = "miou"):
        """Names the folder; nothing is read or made until a call needs it.

        Args:
          folder: where the checkpoints lie, one folder per step.
          model: name of the model, stored with each checkpoint and used in errors.
          keep: how many of the latest checkpoints to keep; the best one is kept besides.
          best_metric: the metric, larger is better, that tells the best checkpoint.
        """
        if keep < 1:
            raise InputError(f"Checkpoints: keep is {keep}, expected at least 1; 3 is the default")
        self.folder = expand(folder)
        self.model = model
        self.best_metric = best_metric
        self._keep = keep
        self._manager: ocp.CheckpointManager | None = None
        self._known_to_fit = False

    def save(
        self,
        step: int,
        state: Any,
        extra: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts to save `state` as `step`; the caller may donate or change `state` at once.

        Args:
          step: number of optimizer steps done.
          state: pytree of jax or numpy arrays, PRNG keys among them.
          extra: whatever JSON can hold: configuration, data iterator state.
          metrics: scores at this step, `best_metric` among them, if there are any.

        Raises:
          TypeError: a leaf of `state` is no array, or `extra` does not fit into JSON.
          FileExistsError: the step is there already.
          ValueError: the folder holds checkpoints of another model, which saving would rotate
            out; or `metrics` lacks `best_metric`.
          UnwritableError: the folder can't be written; so do `wait` and `close` where it is found later.
        """
        entries = flat_state.flatten(state)
        described = flat_state.describe(entries)
        record = {
            "model": self.model,
            "entries": described,
            "extra": flat_state.checked_extra(extra),
        }
        if metrics is not None and self.best_metric not in metrics:
            raise InputError(
                f"Checkpoints.save: metrics hold {sorted(metrics)}, but not {self.best_metric!r}, "
                "which tells the best checkpoint; add it or set best_metric"
            )
        manager = self._open()
        if not self._known_to_fit and (latest := self.latest_step()) is not None:
            self._check_fits("save", latest, self._record(latest), described)
        if step in manager.all_steps():
            raise TargetExistsError(
                f"Checkpoints.save: step {step} exists in {self.folder} and is not overwritten; "
                "continue from the latest step or save to another folder"
            )
        with files.writing(self.folder):
            manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(flat_state.storable(entries)),
                    record=ocp.args.JsonSave(record),
                ),
                metrics={name: float(value) for name, value in (metrics or {}).items()},
                force=True,
            )
        self._known_to_fit = True

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Gives scores to a checkpoint that was saved without; of several processes, all call it."""
        self.wait()
        if is_first():
            write_json(self.folder / str(step) / "metrics" / "metrics", metrics)
        gather(None)  # Until it is written.
        self._open().reload()

    def metrics(self, step: int) -> dict[str, float]:
        """The scores that a checkpoint was saved with, if any."""
        with files.reading(self.folder, step):
            return self._open().metrics(step) or {}

    def restore(self, template: Any, step: Step = "latest") -> tuple[Any, dict[str, Any], int]:
        """Reads a checkpoint into the structure, devices and shardings of `template`.

        Args:
          template: pytree like the state that was saved: jax or numpy arrays, whose values are
            not used, or `jax.ShapeDtypeStruct`.
          step: a step, or "latest", or "best" by `best_metric`.

        Returns:
          The state, the `extra` saved with it, and the step.

        Raises:
          FileNotFoundError: no such folder or step, or no finished checkpoint at all.
          DamagedCheckpointError: a file is not what was written; names it, and a step that is whole.
          ValueError: names, shapes or dtypes differ from the template's; lists all differences.
        """
        step = self._resolve(step)
        record = self._record(step)
        entries = flat_state.flatten(template)
        self._check_fits("restore", step, record, flat_state.describe(entries))
        args = ocp.args.Composite(state=ocp.args.StandardRestore(flat_state.targets(entries)))
        with files.reading(self.folder, step):
            arrays = self._open().restore(step, args=args)["state"]
        self._known_to_fit = True
        return flat_state.rebuild(template, arrays), record["extra"], step

    def read_extra(self, step: Step = "latest") -> dict[str, Any]:
        """Reads only the `extra` of a checkpoint, for example to build the model it belongs to."""
        return self._record(self._resolve(step))["extra"]

    def steps(self) -> list[int]:
        """All steps that can be restored, in order; waits for a save under way."""
        if not self.folder.is_dir():
            return []
        self.wait()
        return [
            step
            for step in sorted(self._open().all_steps())
            if files.is_complete(self.folder / str(step))
        ]

    def latest_step(self) -> int | None:
        """The last step that can be restored, or None."""
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """The step with the largest `best_metric`, or None where no step has one."""
        ranks = {step: self._rank(self.metrics(step)) for step in self.steps()}
        best = max(ranks, key=ranks.__getitem__, default=None)
        return None if best is None or ranks[best] == -math.inf else best

    def wait(self) -> None:
        """Waits until every save is on disk; raises what went wrong in the background."""
        if self._manager is not None:
            with files.writing(self.folder):
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then lets go of the folder."""
        manager, self._manager = self._manager, None
        try:
            with files.writing(self.folder):
                if manager is not None:
                    manager.close()
        finally:
            logging.getLogger("absl").removeFilter(files.not_raised)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # What went wrong first is told, not what that breaks here.
        with contextlib.suppress(*((Exception,) if kind else ())):
            self.close()

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            with files.reading(self.folder), files.writing(self.folder):
                self._manager = files.open_manager(self.folder, self._keep, self._rank)
            logging.getLogger("absl").addFilter(files.not_raised)
        return self._manager

    def _rank(self, metrics: Mapping[str, float]) -> float:
        value = metrics.get(self.best_metric, -math.inf)
        return -math.inf if math.isnan(value) else value

    def _resolve(self, step: Step) -> int:
        if not self.folder.is_dir():
            raise MissingFileError(
                f"Checkpoints: no folder {self.folder}; check the path, or train first"
            )
        steps = self.steps()
        if not steps:
            raise MissingFileError(
                f"Checkpoints: {self.folder} holds no finished checkpoint; check the path, or "
                "train until the first one is saved"
            )
        if step == "latest":
            return steps[-1]
        found = self.best_step() if step == "best" else step
        if found not in steps:
            wanted = f"with the metric {self.best_metric!r}" if found is None else str(found)
            raise MissingFileError(
                f"Checkpoints: no step {wanted} in {self.folder}; it holds steps {steps}; ask for "
                "one of them, or for 'latest'"
            )
        return found

    def _record(self, step: int) -> dict[str, Any]:
        args = ocp.args.Composite(record=ocp.args.JsonRestore())
        with files.reading(self.folder, step):
            return self._open().restore(step, args=args)["record"]

    def _check_fits(
        self, operation: str, step: int, record: Mapping[str, Any], wanted: Mapping[str, str]
    ) -> None:
        differences = flat_state.differences(record["entries"], wanted)
        if differences:
            raise InputError(
                f"Checkpoints.{operation}: step {step} in {self.folder} holds model "
                f"{record['model']!r}, which does not fit model {self.model!r}.\n"
                + "\n".join(differences)
                + "\nNothing was restored or overwritten. Build the model from the configuration "
                "that the checkpoint was saved with (read_extra()), or use another folder."
            )
