"""What the entry points share: flags, configuration, data, modes."""

import dataclasses
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
from absl import app, flags, logging
from flax import nnx
from ml_collections import config_flags

from segblocks_jax.data import SegmentationSource
from segblocks_jax.errors import InvalidInputError, UserError
from segblocks_jax.experiments import commands
from segblocks_jax.structured_config import ConfigError
from segblocks_jax.systems.segblocks.build import create_system
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.systems.segblocks.sources import open_source
from segblocks_jax.training import loop, sharding
from segblocks_jax.training.preemption import Preempted
from segblocks_jax.training.profiling import Profile
from segblocks_jax.training.sharding import is_first

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
    "output", None, "predict: folder for the results; default WORKDIR/predictions."
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
    "max_pixels", 2**28, "predict: larger images are refused.", lower_bound=1
)
_CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "A step, 'latest' or 'best'.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "train, eval: one of several processes; under Slurm needs no more flags."
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "distributed: HOST:PORT of process 0.")
_PROCESSES = flags.DEFINE_integer("num_processes", None, "distributed: how many processes.")
_PROCESS = flags.DEFINE_integer("process_id", None, "distributed: which process this is, from 0.")
_PROFILE = flags.DEFINE_string("profile", None, "train: FIRST:COUNT, the steps to trace.")
_SIZE = flags.DEFINE_list("size", ["512", "1024"], "speed: height,width of the image.")


def main(datasets: tuple[str, ...]) -> None:
    """Runs an experiment from the command line; `datasets` are those that the entry point serves."""
    flags.mark_flag_as_required("config")
    app.run(lambda argv: sys.exit(_main(datasets)), flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError, TypeError) as error:
        print(
            f"error: a --config flag names no field of the configuration: {error}", file=sys.stderr
        )
    except (flags.Error, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def read_config(mapping: ml_collections.ConfigDict, datasets: tuple[str, ...]) -> ExperimentConfig:
    """Turns a ConfigDict into a checked configuration.

    Raises:
        ConfigError: a field is unknown or has a bad value, or the data set belongs to another entry point.
    """
    config = ExperimentConfig.from_mapping(mapping.to_dict())
    if config.data.dataset not in datasets:
        raise ConfigError(
            f"data.dataset is {config.data.dataset!r}; this entry point serves {', '.join(datasets)}"
        )
    return config


def _main(datasets: tuple[str, ...]) -> int:
    if not any(argument.startswith(("--verbosity", "-v")) for argument in sys.argv):
        logging.set_verbosity(logging.WARNING)  # absl.app says INFO; Orbax then tells every file.
    try:
        config = _with_data_dir(read_config(_CONFIG.value, datasets), _DATA_DIR.value)
        _start_distributed()
        return _run(config)
    except Preempted as stop:
        if is_first():
            print(stop)
        return 0
    except UserError as error:
        logging.debug("stopped", exc_info=True)
        print(f"error: {error}", file=sys.stderr)
        return 2


def _with_data_dir(config: ExperimentConfig, folder: str | None) -> ExperimentConfig:
    if folder is None:
        return config
    return dataclasses.replace(config, data=dataclasses.replace(config.data, data_dir=folder))


def _start_distributed() -> None:
    """Joins the other processes, where the flags say that there are some."""
    where = _COORDINATOR.value, _PROCESSES.value, _PROCESS.value
    if not _DISTRIBUTED.value:
        if where != (None, None, None):
            raise InvalidInputError(
                "--coordinator, --num_processes and --process_id need --distributed"
            )
        return
    if _MODE.value not in ("train", "eval"):
        raise InvalidInputError(
            f"--distributed serves --mode=train and eval; run --mode={_MODE.value} in one process"
        )
    sharding.start(*where)


def _run(config: ExperimentConfig) -> int:
    workdir = pathlib.Path(_WORKDIR.value)
    jax.config.update("jax_compilation_cache_dir", str(workdir / "compilation_cache"))

    def source(split: str) -> SegmentationSource:
        return open_source(config, split)

    def train() -> int:
        profile = None if _PROFILE.value is None else Profile.parse(_PROFILE.value)
        # What can't start fails before data is opened; the number of classes plays no part here.
        abstract = nnx.eval_shape(lambda: create_system(config, 1))
        loop.load_pretrained(config, abstract, workdir)
        sources = source(config.data.train_split), source(split)
        return commands.train(config, *sources, workdir, profile)

    checkpoint: Any = _CHECKPOINT.value
    if checkpoint.isdigit():
        checkpoint = int(checkpoint)
    split = _SPLIT.value or config.data.eval_split
    actions: dict[str, Callable[[], int]] = {
        "train": train,
        "eval": lambda: commands.evaluate(config, source(split), workdir, checkpoint),
        "speed": lambda: commands.speed(config, workdir, _image_size()),
        "predict": lambda: commands.predict(config, workdir, checkpoint, _prediction(workdir)),
        "export": lambda: commands.export(config, workdir, checkpoint),
    }
    return actions[_MODE.value]()


def _prediction(workdir: pathlib.Path) -> commands.Prediction:
    return commands.Prediction(
        source=_INPUT.value,
        output=pathlib.Path(_OUTPUT.value or workdir / "predictions"),
        mode=_SERVE.value,
        shapes=tuple(map(_shape, _SHAPES.value)),
        batch_size=_BATCH.value,
        side_by_side=_SIDE_BY_SIDE.value,
        max_pixels=_MAX_PIXELS.value,
    )


def _shape(text: str) -> tuple[int, int, int]:
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise ConfigError(f"--shapes has {text!r}; expected NxHxW, such as 1x1024x2048")
    n, h, w = map(int, parts)
    return n, h, w


def _image_size() -> tuple[int, int]:
    if len(_SIZE.value) != 2 or not all(map(str.isdecimal, _SIZE.value)):
        raise ConfigError(f"--size is {','.join(_SIZE.value)}; expected HEIGHT,WIDTH in pixels")
    height, width = map(int, _SIZE.value)
    return height, width
