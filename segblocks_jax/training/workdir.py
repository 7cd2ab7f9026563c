"""The folder of a run: its checkpoints, what continuing it takes, results with all that is needed to repeat them."""

import contextlib
import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from segblocks_jax.errors import InUseError
from segblocks_jax.structured_config import Config, ConfigError, fields_affecting, flat
from segblocks_jax.training.checkpoints import Checkpoints, Step
from segblocks_jax.training.lock import holder, lock
from segblocks_jax.training.logging import RunLog
from segblocks_jax.training.provenance import commit, device_name
from segblocks_jax.training.sharding import gather, is_first
from segblocks_jax.training.state import create_optimizer, create_state
from segblocks_jax.training.system import Evaluation, System


def open_checkpoints(system: System, workdir: pathlib.Path) -> Checkpoints:
    """The checkpoints of a run."""
    return Checkpoints(
        workdir / "checkpoints",
        model=system.model,
        keep=system.config.loop.keep_checkpoints,
        best_metric=system.main_metric,
    )


@contextlib.contextmanager
def only_run(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other runs out of the workdir, or raises InUseError; of several processes, the first does it for all."""
    with contextlib.ExitStack() as stack:
        mine = not is_first() or stack.enter_context(lock(workdir))
        if not all(gather(mine)):
            raise InUseError(
                f"{workdir}: {holder(workdir)} trains here; wait for its end, or use another workdir"
            )
        yield


@contextlib.contextmanager
def open_log(system: System, workdir: pathlib.Path, step: int) -> Iterator[RunLog]:
    """The log of a run from a step on; all processes log, as what they log takes all, but the first one's is kept."""
    with contextlib.ExitStack() as stack:
        folder, project = workdir, system.config.loop.wandb
        if not is_first():
            folder, project = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())), None
        config = system.config.to_dict()
        yield stack.enter_context(RunLog(folder, wandb=project, config=config, step=step))


def load_pretrained(
    system: System, modules: nnx.Module, workdir: pathlib.Path
) -> dict[str, Any] | None:
    """Loads the weights that an experiment starts from into modules; none where its run goes on.

    Returns:
        What `System.load_pretrained` gives.

    Raises:
        ConfigError: the workdir holds a run of another configuration.
        FileNotFoundError, ValueError: as `System.load_pretrained`.
    """
    with open_checkpoints(system, workdir) as checkpoints:
        if checkpoints.latest_step() is not None:
            stored = checkpoints.read_extra()["config"]
            check_same_config(stored, system.config, checkpoints.folder)
            return None
    return system.load_pretrained(modules, workdir)


def load_modules(
    system: System, workdir: pathlib.Path, step: Step = "latest"
) -> tuple[nnx.Module, int, dict[str, Any] | None]:
    """The modules of a checkpoint in the workdir as they are evaluated and served: calibrated, see `System`.

    Returns:
        The modules, the checkpoint's step, and what `load_pretrained` gave when the run began.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: the checkpoint is of another model; tells every difference.
    """
    modules, found, extra = restore_modules(system, workdir, step)
    system.check_trained(extra["config"])
    system.calibrate(modules, extra.get("calibration"))
    return modules, found, extra.get("pretrained")


def restore_modules(
    system: System, workdir: pathlib.Path, step: Step = "latest"
) -> tuple[nnx.Module, int, dict[str, Any]]:
    """The modules of a checkpoint as they were trained, averaged if the run averages; its step, and its `extra`.

    Errors as `load_modules`.
    """
    with open_checkpoints(system, workdir) as checkpoints:
        checkpoints.read_extra(step)  # Tells what is missing before a network is built.
        optim = system.config.optim
        optimizer, average = create_optimizer(optim, system.multipliers()), optim.ema is not None
        graphdef, state = create_state(
            system.build(), optimizer, system.config.seed, average=average
        )
        state, extra, found = checkpoints.restore(state, step)
    return nnx.merge(graphdef, *state.served), found, extra


def describe(
    system: System, result: Evaluation, step: int, pretrained: dict[str, Any] | None
) -> dict[str, Any]:
    """An evaluation with all that is needed to repeat it, for JSON; `pretrained` is as `load_pretrained` gave it."""
    return {
        "experiment": system.config.name,
        "step": step,
        "metrics": result.to_dict(),
        **system.describe(),
        "pretrained": pretrained,
        "commit": commit(),
        "device": device_name(),
        "devices": jax.device_count(),
        "jax": jax.__version__,
    }


def check_same_config(stored: Mapping[str, Any], config: Config, folder: Path) -> None:
    """Refuses to continue a run of another configuration; fields that don't affect results may differ.

    The run's is `stored`, as its checkpoints in `folder` hold it, of any schema that can be migrated.

    Raises:
        ConfigError: they differ; lists every field.
    """
    try:
        before = flat(config.from_stored(stored).to_dict())
    except ConfigError as error:
        raise ConfigError(f"{folder} can't be continued: {error}") from error
    now, free = flat(config.to_dict()), fields_affecting(type(config), "nothing", "rounding")
    lines = [
        f"  {name}: {before[name]!r} there, {now[name]!r} now"
        for name in sorted(now)
        if before[name] != now[name] and name not in free
    ]
    if lines:
        raise ConfigError(
            f"{folder} holds a run of another configuration:\n"
            + "\n".join(lines)
            + "\nNothing was changed. Use another workdir, or put these fields back; these may differ: "
            + ", ".join(free)
        )


@dataclasses.dataclass
class Timing:
    """How long a run has taken, over all its starts.

    Attributes:
        starts: how often it was started.
        before: seconds that earlier starts took, up to the checkpoint that the next continued from.
    """

    starts: int = 1
    before: float = 0.0

    def __post_init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Up to now: steps, evaluations, compilations, not what was lost and done again."""
        return self.before + time.monotonic() - self._began

    def to_dict(self) -> dict[str, Any]:
        """For a checkpoint and for results."""
        return {"starts": self.starts, "seconds": round(self.seconds, 3)}

    @classmethod
    def after(cls, stored: Mapping[str, Any] | None) -> "Timing":
        """Goes on from what a checkpoint holds."""
        if stored is None:
            return cls()
        return cls(starts=int(stored["starts"]) + 1, before=float(stored["seconds"]))
