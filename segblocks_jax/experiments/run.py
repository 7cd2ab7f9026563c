"""Shared by the entry points: flags, configuration, data, modes."""

import errno
import itertools
import pathlib
import re
import sys
import traceback
from typing import Any

import jax
import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from segblocks_jax.allocator import keep_freed_memory
from segblocks_jax.data import images
from segblocks_jax.errors import InputError, MissingFileError, UserError
from segblocks_jax.experiments import commands, phases
from segblocks_jax.experiments.plan import Plan
from segblocks_jax.inference.server import parse_shape
from segblocks_jax.paths import check_writable, expand
from segblocks_jax.structured_config import ConfigError, check_name
from segblocks_jax.systems.registry import SYSTEMS, system_of, system_type
from segblocks_jax.training import sharding
from segblocks_jax.training.preemption import EXIT_CODE, Preempted
from segblocks_jax.training.profiling import Profile
from segblocks_jax.training.sharding import is_first
from segblocks_jax.training.system import System

# Of files that the code names itself. Others (a full disk, no permission) are the machine's.
_BUGS = (None, errno.ENOENT, errno.EEXIST)
MODES = ("train", "eval", "speed", "predict", "export")

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "File of the experiment's configuration; override a field by --config.x.y=value.",
)
_MODE = flags.DEFINE_enum("mode", "train", MODES, "What to do.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: checkpoints, logs, results.", required=True
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of the data set; overrides the configuration."
)
_SPLIT = flags.DEFINE_string("split", None, "Split to evaluate on; overrides the configuration.")
_INPUT = flags.DEFINE_string("input", None, "predict: an image, a video, or a folder of both.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for results of eval, speed, predict, export; default in WORKDIR."
)
_SERVE = flags.DEFINE_string(
    "serve", "exact", "predict: how many blocks run high: exact, budget=K, share=F or latency=MS."
)
_SHAPES = flags.DEFINE_list(
    "shapes", [], "predict: NxHxW that images are padded to, so that many sizes need few programs."
)
_BATCH = flags.DEFINE_integer("batch_size", 1, "predict: pictures of one size taken together.")
_SIDE_BY_SIDE = flags.DEFINE_bool("side_by_side", False, "predict: input, labels, grid in one PNG.")
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels", images.MAX_PIXELS, "predict: larger images are refused.", lower_bound=1
)
_CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "A step, 'latest' or 'best'.")
_PHASE = flags.DEFINE_string(
    "phase", None, "Of a configuration with phases, the one that a mode other than train is for."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "train, eval: one of several processes; under Slurm needs no more flags."
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "distributed: HOST:PORT of process 0.")
_PROCESSES = flags.DEFINE_integer("num_processes", None, "distributed: how many processes.")
_PROCESS = flags.DEFINE_integer("process_id", None, "distributed: which process this is, from 0.")
_PROFILE = flags.DEFINE_string("profile", None, "train: FIRST:COUNT, the steps to trace.")
_SIZE = flags.DEFINE_list("size", None, "speed: height,width of the image; default: the system's.")


def main(datasets: tuple[str, ...]) -> None:
    """Runs an experiment from the command line; `datasets` are those that the entry point serves."""
    keep_freed_memory()
    flags.mark_flag_as_required("config")
    app.run(lambda argv: sys.exit(_main(datasets)), flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    try:
        argv = list(map(_expand_config, argv))
        for argument, following in itertools.pairwise([*argv, ""]):
            if re.fullmatch(r"--?config(=.*)?", argument):
                file = (argument.partition("=")[2] or following).partition(":")[0]
                if not pathlib.Path(file).is_file():
                    raise MissingFileError(f"--config={file}: no such file")
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        if _in_config_file(error):
            raise
        print(f"error: {_unknown_field(argv) or error}", file=sys.stderr)
    sys.exit(2)


def _in_config_file(error: BaseException | None) -> bool:
    """Whether the code of the --config file raised an error, or what led to it: a bug, not a wrong flag."""
    while error is not None:
        frames = traceback.walk_tb(error.__traceback__)
        if any(frame.f_globals.get("__name__") == "config_config" for frame, _ in frames):
            return True
        error = error.__context__
    return False


def _unknown_field(argv: list[str]) -> str | None:
    """What is wrong with the name of a field in the flags; ml_collections knows no former names."""
    kinds = {system_type(name).config_type for name in SYSTEMS}
    for argument in argv:
        if found := re.match(r"--?(?:no)?config\.([^=\[]+)", argument):
            errors = [error for kind in kinds if (error := _name_error(kind, found[1])) is not None]
            if len(errors) == len(kinds):
                return _name_error(system_type("segblocks").config_type, found[1])
    return None


def _name_error(kind: type, name: str) -> str | None:
    try:
        check_name(kind, name)
    except ConfigError as error:
        return str(error)
    return None


def _expand_config(argument: str) -> str:
    """In the flag that names the configuration's file; what is in it opens its paths itself."""
    name, equals, path = argument.partition("=")
    return f"{name}={expand(path)}" if equals and name.lstrip("-") == "config" else argument


def read_system(
    mapping: ml_collections.ConfigDict, datasets: tuple[str, ...], **options: Any
) -> System:
    """Turns a ConfigDict without its phases into a system with a checked configuration; `options` as for `system_of`.

    Raises ConfigError for an unknown field, a bad value, or a data set of another entry point.
    """
    fields = mapping.to_dict()
    fields.pop(phases.PHASES, None)
    system = system_of(fields, **options)
    dataset = system.config.data.dataset
    if dataset not in datasets:
        raise ConfigError(
            f"data.dataset is {dataset!r}; this entry point serves {', '.join(datasets)}"
        )
    return system


def _main(datasets: tuple[str, ...]) -> int:
    if not any(argument.startswith(("--verbosity", "-v")) for argument in sys.argv):
        logging.set_verbosity(logging.WARNING)  # absl.app says INFO; Orbax then tells every file.
    try:
        options = {"data_dir": _DATA_DIR.value, "eval_split": _SPLIT.value}
        system = read_system(_CONFIG.value, datasets, **options)
        workdir, plan = expand(_WORKDIR.value), phases.plan_of(_CONFIG.value.to_dict())
        if plan is not None and _MODE.value == "train":
            return _train_phases(plan, workdir)
        if plan is not None:
            config, workdir = phases.find_phase(plan, _PHASE.value, workdir)
            system = type(system)(config, **options)
        _start_distributed()
        return _run(system, workdir)
    except Preempted as stop:
        if is_first():
            print(stop)
        return EXIT_CODE
    except (UserError, OSError) as error:
        if not isinstance(error, UserError) and error.errno in _BUGS:
            raise
        logging.debug("stopped", exc_info=True)
        print(f"error: {error}", file=sys.stderr)
        return 2


def _train_phases(plan: Plan, workdir: pathlib.Path) -> int:
    if _DISTRIBUTED.value or _PHASE.value or _PROFILE.value:
        raise InputError(
            "--mode=train of a configuration with phases runs all of them in one process, without --distributed,"
            " --phase and --profile"
        )
    check_writable(workdir)
    jax.config.update("jax_compilation_cache_dir", str(workdir / "compilation_cache"))
    return phases.train_phases(plan, workdir, _DATA_DIR.value)


def _start_distributed() -> None:
    """Joins the other processes, where the flags say that there are some."""
    where = _COORDINATOR.value, _PROCESSES.value, _PROCESS.value
    if not _DISTRIBUTED.value:
        if where != (None, None, None):
            raise InputError("--coordinator, --num_processes and --process_id need --distributed")
        return
    if _MODE.value not in ("train", "eval"):
        raise InputError(
            f"--distributed serves --mode=train and eval; run --mode={_MODE.value} in one process"
        )
    sharding.start(*where)


def _run(system: Any, workdir: pathlib.Path) -> int:
    output = workdir if _OUTPUT.value is None else expand(_OUTPUT.value)
    jax.config.update("jax_compilation_cache_dir", str(workdir / "compilation_cache"))
    checkpoint: Any = _CHECKPOINT.value
    if checkpoint.isdigit():
        checkpoint = int(checkpoint)
    match _MODE.value:
        case "train":
            profile = None if _PROFILE.value is None else Profile.parse(_PROFILE.value)
            return commands.train(system, workdir, profile)
        case "eval":
            return commands.evaluate(system, workdir, checkpoint, output)
        case "speed":
            return commands.speed(system, output, _image_size())
        case "export":
            return commands.export(system, workdir, checkpoint, output)
    return commands.predict(
        system,
        workdir,
        checkpoint,
        _INPUT.value,
        output if _OUTPUT.value else workdir / "predictions",
        mode=_SERVE.value,
        shapes=tuple(map(parse_shape, _SHAPES.value)),
        batch_size=_BATCH.value,
        side_by_side=_SIDE_BY_SIDE.value,
        max_pixels=_MAX_PIXELS.value,
    )


def _image_size() -> tuple[int, int] | None:
    if _SIZE.value is None:
        return None
    if len(_SIZE.value) != 2 or not all(map(str.isdecimal, _SIZE.value)):
        raise ConfigError(f"--size is {','.join(_SIZE.value)}; expected HEIGHT,WIDTH in pixels")
    height, width = map(int, _SIZE.value)
    if not height or not width:
        raise ConfigError(f"--size is {height},{width}; expected sides above 0")
    return height, width
