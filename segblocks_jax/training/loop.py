"""Training: opens all that a run needs; continues where the workdir left off."""

import contextlib
import pathlib

import jax
from flax import nnx

from segblocks_jax.paths import check_writable
from segblocks_jax.training.checkpoint_files import remove_unfinished
from segblocks_jax.training.preemption import StopRequest
from segblocks_jax.training.profiling import Profile, Profiler
from segblocks_jax.training.provenance import commit
from segblocks_jax.training.run import Run, say, shown, trained_modules
from segblocks_jax.training.sharding import is_first
from segblocks_jax.training.state import create_optimizer, create_state
from segblocks_jax.training.system import Evaluation, System
from segblocks_jax.training.workdir import (
    Timing,
    load_pretrained,
    only_run,
    open_checkpoints,
    open_log,
)


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
        UnwritableError: the workdir can't be written.
        InUseError: another process trains in the workdir.
    """
    workdir = check_writable(workdir)
    system.check_export(workdir / "export")
    modules = system.build()
    pretrained = load_pretrained(system, modules, workdir)
    with only_run(workdir):
        return _train(system, modules, pretrained, workdir, profile)


def _train(
    system: System,
    modules: nnx.Module,
    pretrained: dict[str, str] | None,
    workdir: pathlib.Path,
    profile: Profile | None,
) -> Evaluation:
    config = system.config
    if pretrained is not None:
        say("backbone weights from {file}, SHA-256 {sha256}".format(**pretrained))
    optimizer = create_optimizer(config.optim, system.multipliers())
    graphdef, state = create_state(modules, optimizer, config.seed)
    step = system.train_step(graphdef, optimizer, say)
    commit()  # Kept: results name the code that runs, not what is committed meanwhile.
    with (
        StopRequest() as stop,
        contextlib.closing(
            system.train_batches((jax.process_index(), jax.process_count()))
        ) as batches,
        open_checkpoints(system, workdir) as checkpoints,
    ):
        remove_unfinished(checkpoints.folder)
        state, first, timing = step.place(state), 0, Timing()
        if checkpoints.latest_step() is not None:
            state, extra, first = checkpoints.restore(state)
            batches.set_state(extra["batches"])
            pretrained = extra.get("pretrained")
            timing = Timing.after(extra.get("timing"))
            say(
                f"continuing from step {first} in {checkpoints.folder}, after"
                f" {timing.before:.0f} s; start number {timing.starts}"
            )
        profile = profile and profile.of_run(first, config.optim.steps, say)
        with open_log(system, workdir, first) as log, Profiler(workdir, profile) as profiler:
            if config.loop.warm_up:
                step.warm_up(state)
            run = Run(
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
            with shown(result):
                checkpoints.wait()
    if is_first():
        with shown(result):
            system.export(trained_modules(graphdef, state), workdir / "export")
    return result
