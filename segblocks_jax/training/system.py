"""System: all that the training loop, sweeps and entry points know of what is trained."""

import abc
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import optax
from flax import nnx

from segblocks_jax.errors import InputError, TargetExistsError
from segblocks_jax.structured_config import Config
from segblocks_jax.training.logging import RunLog
from segblocks_jax.training.state import Multipliers, TrainState
from segblocks_jax.training.steps import Metrics, Report

OnBatch = Callable[[Any, Any], None]


@runtime_checkable
class Step(Protocol):
    """Takes optimizer steps: ``state, metrics = step(state, batch)``."""

    @property
    def compiled(self) -> Collection[Any]:
        """What an executable has been compiled for."""

    def place(self, state: TrainState) -> TrainState:
        """Puts a state on the devices that the step runs on."""

    def warm_up(self, state: TrainState) -> None:
        """Compiles everything that a step may need; changes nothing."""

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        """One step; `state` is donated, `batch` is this process's part. The metrics have a `loss`."""


@runtime_checkable
class Batches(Protocol):
    """Endless training batches of this process, which continue where a state was taken."""

    def __next__(self) -> Any: ...

    def get_state(self) -> dict[str, Any]:
        """Where the batches stand, in plain values."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from there."""

    def close(self) -> None:
        """Stops reading ahead."""


@runtime_checkable
class Evaluation(Protocol):
    """The result on a whole data set. Its text, `str(evaluation)`, is a table for people."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: metrics by name, the cost among them, and None for what is unknown."""


class System(abc.ABC):
    """An experiment of one kind: a configuration, and what it means.

    `segblocks_jax.systems.NAME.system` holds each as `SYSTEM`. `data_dir` and `eval_split` take the place of
    what the configuration says. Data is opened when first needed.

    Attributes:
        config_type: of the configuration.
        main_metric: name of the metric, larger is better, that tells the best checkpoint.
        config: of this experiment. It has `name`, `seed`, and the groups `optim` and `loop`.
    """

    config_type: ClassVar[type[Config]]
    main_metric: ClassVar[str]
    config: Any

    @abc.abstractmethod
    def __init__(
        self, config: Any, *, data_dir: str | None = None, eval_split: str | None = None
    ) -> None:
        """Opens no data yet."""

    @property
    @abc.abstractmethod
    def model(self) -> str:
        """Name of what is trained, for errors."""

    @abc.abstractmethod
    def build(self) -> nnx.Module:
        """Builds the modules with random weights, by the configuration's seed; ValueError where it can't."""

    def multipliers(self) -> Multipliers:
        """Factors on learning rate and weight decay, by a part's path in the modules."""
        return {}

    def load_pretrained(
        self, modules: nnx.Module, workdir: Path | None = None
    ) -> dict[str, Any] | None:
        """Loads the weights that training in `workdir` starts from into the modules, abstract ones too.

        Returns:
            `file`, `sha256` and more plain values for records, such as `parts`, what was loaded if it isn't the
            backbone; or None where there are none to load.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it doesn't fit.
        """
        return None

    @abc.abstractmethod
    def train_step(
        self, graphdef: nnx.GraphDef, optimizer: optax.GradientTransformation, report: Report
    ) -> Step:
        """What takes the training steps of the modules; `report` gets a line for each compilation."""

    @abc.abstractmethod
    def train_batches(self, shard: tuple[int, int]) -> Batches:
        """Training batches of process `shard[0]` of `shard[1]`. What is missing for evaluations fails now, too."""

    def check_trained(self, stored: Mapping[str, Any]) -> None:  # noqa: B027
        """Raises InputError where what was trained by a stored configuration can't be evaluated by this one."""

    def calibrate(
        self, modules: nnx.Module, stored: Mapping[str, float] | None = None
    ) -> dict[str, float] | None:
        """Makes trained modules what is evaluated, served and exported, if that takes more than their weights.

        Returns:
            Plain values for the checkpoint, which later calls give as `stored`; without them they are found on
            training data. None where there are none.
        """
        return None

    @abc.abstractmethod
    def evaluate(self, modules: nnx.Module, *, on_batch: OnBatch | None = None) -> Evaluation:
        """The result on the evaluation data, of all processes together.

        Args:
            modules: of `build`.
            on_batch: called after each batch of this process with the batch, whose `count` is its number of
                examples, and its result.
        """

    def describe(self) -> dict[str, Any]:
        """What says in results which experiment it was: `config`, without the folders of one machine."""
        return {"config": self.config.stored()}

    @property
    @abc.abstractmethod
    def eval_size(self) -> int:
        """Number of examples that are evaluated."""

    def details(self, modules: nnx.Module, result: Any) -> dict[str, Any]:
        """What a sweep's record holds beside the last evaluation, for JSON."""
        return {}

    def note(self, metrics: Mapping[str, float]) -> str:
        """What the progress line shows of a step."""
        return f"loss {metrics['loss']:.3f}"

    def show(self, log: RunLog, step: int) -> OnBatch:
        """Logs pictures of an evaluation; called as its `on_batch`."""
        return lambda batch, result: None

    def check_export(self, folder: Path) -> None:
        """Raises FileExistsError where `export` would not write."""
        if folder.exists() and not folder.is_dir():
            raise TargetExistsError(f"export: {folder} is no folder; move it away")

    @abc.abstractmethod
    def export(self, modules: nnx.Module, folder: Path) -> None:
        """Writes the trained modules, and what builds them again, to a folder."""

    @abc.abstractmethod
    def engine(self, modules: nnx.Module, **options: Any) -> Any:
        """What serves the modules: called with a batch of inputs, it returns the results."""

    def predict(self, load: Callable[[], Any], source: str, output: Path, **options: Any) -> int:
        """What `--mode=predict` does: runs on files, and writes results.

        Args:
            load: gives the trained modules; called when they are needed.
            source: a file or a folder.
            output: folder of the results.
            options: the mode's flags, and `settings`, plain values that the results depend on beside them.

        Returns:
            The exit code, 1 where a file failed.

        Raises:
            InputError: the system doesn't predict.
        """
        raise InputError(f"{self.model}: this system has no --mode=predict")

    def speed(self, size: tuple[int, int] | None = None) -> tuple[dict[str, Any], str]:
        """What `--mode=speed` measures on images of a size (h, w), or its own: plain values for JSON, and a table.

        Raises:
            InputError: the system has no such measurement.
        """
        raise InputError(f"{self.model}: this system has no --mode=speed")
