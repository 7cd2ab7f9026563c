"""What lies in the folder of a run: its checkpoints, and results with all that is needed to repeat them."""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
from flax import nnx

from segblocks_jax.errors import InUseError
from segblocks_jax.training.checkpoints import Checkpoints, Step
from segblocks_jax.training.lock import holder, lock
from segblocks_jax.training.logging import RunLog
from segblocks_jax.training.optimizer import create_optimizer
from segblocks_jax.training.provenance import commit, device_name
from segblocks_jax.training.resume import check_same_config
from segblocks_jax.training.sharding import gather, is_first
from segblocks_jax.training.state import create_state
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
    """Keeps other runs out of the workdir; of several processes, the first does it for all.

    Raises:
        InUseError: another one is in it.
    """
    with contextlib.ExitStack() as stack:
        mine = not is_first() or stack.enter_context(lock(workdir))
        if not all(gather(mine)):
            raise InUseError(
                f"{workdir}: {holder(workdir)} trains here; wait for its end, or use another workdir"
            )
        yield


@contextlib.contextmanager
def open_log(system: System, workdir: pathlib.Path, step: int) -> Iterator[RunLog]:
    """The log of a run that begins at, or continues from, a step.

    Of several processes all log, as what they log takes all of them; the first one's is kept.
    """
    with contextlib.ExitStack() as stack:
        folder, project = workdir, system.config.loop.wandb
        if not is_first():
            folder, project = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())), None
        config = system.config.to_dict()
        yield stack.enter_context(RunLog(folder, wandb=project, config=config, step=step))


def load_pretrained(
    system: System, modules: nnx.Module, workdir: pathlib.Path
) -> dict[str, str] | None:
    """Loads the weights that an experiment starts from into modules; none where its run goes on.

    Returns:
        `file` and `sha256` of what was loaded, or None.

    Raises:
        ConfigError: the workdir holds a run of another configuration.
        FileNotFoundError: no such file.
        ValueError: it doesn't fit; lists every name.
    """
    with open_checkpoints(system, workdir) as checkpoints:
        if checkpoints.latest_step() is not None:
            stored = checkpoints.read_extra()["config"]
            check_same_config(stored, system.config, checkpoints.folder)
            return None
    return system.load_pretrained(modules)


def load_modules(
    system: System, workdir: pathlib.Path, step: Step = "latest"
) -> tuple[nnx.Module, int, dict[str, str] | None]:
    """Builds a system's modules with the weights of a checkpoint in the workdir.

    Returns:
        The modules, the checkpoint's step, and what `load_pretrained` gave when the run began.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: the checkpoint is of another model; tells every difference.
    """
    with open_checkpoints(system, workdir) as checkpoints:
        checkpoints.read_extra(step)  # Tells what is missing before a network is built.
        optimizer = create_optimizer(system.config.optim, system.multipliers())
        graphdef, state = create_state(system.build(), optimizer, system.config.seed)
        state, extra, found = checkpoints.restore(state, step)
    return nnx.merge(graphdef, state.params, state.stats), found, extra.get("pretrained")


def describe(
    system: System, result: Evaluation, step: int, pretrained: dict[str, str] | None
) -> dict[str, Any]:
    """An evaluation with all that is needed to repeat it, for JSON.

    `pretrained` is what `load_pretrained` gave, when the run began.
    """
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
