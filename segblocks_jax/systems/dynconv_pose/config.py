"""The configuration of an experiment with poses."""

import dataclasses
from typing import ClassVar

from segblocks_jax.data.pose.config import PoseDataConfig
from segblocks_jax.structured_config import (
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Config,
    Range,
    check,
    check_fields,
    field,
    one_of,
)
from segblocks_jax.systems.dynconv.config import TARGET, MaskConfig
from segblocks_jax.systems.dynconv.hourglass import MULTIPLE
from segblocks_jax.training.config import LoopConfig, StagedOptimConfig

_SEED = Range("a whole number from 0 to 2**32 - 1", lambda x: 0 <= x < 2**32)  # jax.random.key's.
NETWORKS = ("dynconv_hourglass",)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network.

    Attributes:
        name: one of `NETWORKS`.
        width: factor on its 96 channels, such as 0.5.
        stacks: hourglasses in a row.
        masked: whether blocks have masks; without, it is the dense baseline.
    """

    name: str = field("dynconv_hourglass", one_of(NETWORKS))
    width: float = field(1.0, POSITIVE)
    stacks: int = field(4, COUNT)
    masked: bool = True

    def __post_init__(self) -> None:
        check_fields(self, "model.")


@dataclasses.dataclass(frozen=True)
class PoseMaskConfig(MaskConfig):
    """`MaskConfig` with the published target and weight."""

    target: float = field(0.125, TARGET)
    weight: float = field(0.01, NOT_NEGATIVE)


@dataclasses.dataclass(frozen=True)
class PoseOptimConfig(StagedOptimConfig):
    """`StagedOptimConfig` with the published recipe."""

    batch_size: int = field(6, COUNT)
    learning_rate: float = field(2.5e-4, POSITIVE)
    weight_decay: float = field(0.0, NOT_NEGATIVE)
    optimizer: str = field("adam", one_of(("sgd", "adam")))
    milestones: tuple[float, ...] = field((0.59, 0.89), SHARE)


@dataclasses.dataclass(frozen=True)
class ExperimentConfig(Config):
    """Everything that defines a run; the defaults are the published recipe, in steps of 6 people.

    Attributes:
        name: of the experiment, in reports.
        seed: of weights, data order and sampling.
        precision: "float32", or "bfloat16" for the network's activations.
    """

    SCHEMA: ClassVar[int] = 1

    name: str = field("experiment", affects="nothing")
    seed: int = field(0, _SEED)
    precision: str = field("float32", one_of(("float32", "bfloat16")))
    data: PoseDataConfig = dataclasses.field(default_factory=PoseDataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    masks: PoseMaskConfig = dataclasses.field(default_factory=PoseMaskConfig)
    optim: PoseOptimConfig = dataclasses.field(default_factory=PoseOptimConfig)
    loop: LoopConfig = dataclasses.field(default_factory=lambda: LoopConfig(eval_batch_size=32))

    def __post_init__(self) -> None:
        check_fields(self)
        check(
            all(side % MULTIPLE == 0 for side in self.data.crop),
            f"data.crop is {self.data.crop}; {self.model.name} takes multiples of {MULTIPLE} pixels",
        )
