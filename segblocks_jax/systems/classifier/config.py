"""The configuration of a classification experiment; other systems inherit it and add groups of their own."""

import dataclasses

from segblocks_jax.data.classification.config import ClassDataConfig
from segblocks_jax.interop import PRETRAINED, WEIGHT_SUFFIXES
from segblocks_jax.structured_config import Config, Range, check, check_fields, field, one_of
from segblocks_jax.systems.classifier.network import BACKBONES
from segblocks_jax.training.config import LoopConfig, StagedOptimConfig

_SEED = Range("a whole number from 0 to 2**32 - 1", lambda x: 0 <= x < 2**32)  # jax.random.key's.
_SMOOTHING = Range("a share from 0 to below 1", lambda x: 0 <= x < 1)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network.

    Attributes:
        name: of its backbone, one of `BACKBONES`.
        width: channels of a ResNet's first stage; 64 as published.
        pretrained: ImageNet weights of the backbone that training starts from, as for segmentation.
    """

    name: str = field("resnet18", one_of(BACKBONES))
    width: int = field(64, Range("a positive number of channels", lambda x: x > 0))
    pretrained: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "model.")
        weights = self.pretrained
        check(
            weights is None or weights in PRETRAINED or weights.endswith(WEIGHT_SUFFIXES),
            f"model.pretrained is {weights!r}; expected a file that ends in {', '.join(WEIGHT_SUFFIXES)}, or one of"
            f" {', '.join(PRETRAINED)}",
        )


@dataclasses.dataclass(frozen=True)
class ClassOptimConfig(StagedOptimConfig):
    """The optimizer and the loss.

    Attributes:
        label_smoothing: share of the target that is spread over all classes.
    """

    batch_size: int = field(128, Range("a positive number", lambda x: x > 0))
    label_smoothing: float = field(0.0, _SMOOTHING)


@dataclasses.dataclass(frozen=True)
class BaseConfig(Config):
    """What every system that classifies images has.

    Attributes:
        name: of the experiment, in reports.
        seed: of weights, data order and sampling.
        precision: "float32", or "bfloat16" for the network's activations; parameters, statistics and losses stay
            float32.
    """

    name: str = field("experiment", affects="nothing")
    seed: int = field(0, _SEED)
    precision: str = field("float32", one_of(("float32", "bfloat16")))
    data: ClassDataConfig = dataclasses.field(default_factory=ClassDataConfig)
    optim: ClassOptimConfig = dataclasses.field(default_factory=ClassOptimConfig)
    loop: LoopConfig = dataclasses.field(default_factory=lambda: LoopConfig(eval_batch_size=100))

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class ExperimentConfig(BaseConfig):
    """Everything that defines a run of a plain classifier."""

    SCHEMA = 1

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        resnet = self.model.name.startswith("resnet")
        check(
            resnet or self.model.width == 64,
            f"model.width is {self.model.width}; {self.model.name} has no width to choose",
        )
