"""The configuration of an experiment with DynConv's classifiers."""

import dataclasses
from typing import Any, ClassVar

from segblocks_jax.models import CLASSIFIERS
from segblocks_jax.structured_config import (
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Range,
    check,
    check_fields,
    field,
    one_of,
)
from segblocks_jax.systems.classifier.config import BaseConfig

TARGET = Range("a share above 0, up to 1", lambda x: 0 < x <= 1)
NETWORKS = tuple(name for name in CLASSIFIERS if name.startswith("dynconv_"))


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network.

    Attributes:
        name: one of `NETWORKS`.
        width: inner channels of a ResNet's first stage, factor on MobileNetV2's channels; None: as published.
        masked: whether blocks have masks; without, it is the dense baseline.
    """

    name: str = field("dynconv_resnet8", one_of(NETWORKS))
    width: float | None = field(None, POSITIVE)
    masked: bool = True

    def __post_init__(self) -> None:
        check_fields(self, "model.")
        resnet = "resnet" in self.name
        check(
            not resnet or self.width is None or self.width == int(self.width),
            f"model.width is {self.width}; expected a whole number of channels for {self.name}",
        )

    @property
    def options(self) -> dict[str, Any]:
        """What `create_model` takes."""
        width: float | None = self.width
        if width is not None and "resnet" in self.name:
            width = int(width)
        return {"masked": self.masked} | ({} if width is None else {"width": width})


@dataclasses.dataclass(frozen=True)
class MaskConfig:
    """How masks are trained; times are shares of all steps.

    Attributes:
        target: share of the blocks' operations that may be executed.
        weight: of the budget loss, against the task's; 10 as published for classification.
        noise_until: when the noise ends, 0.8 as published.
        temperature: of the sigmoid whose gradient decisions have; a value for each of the spans that
            `temperature_milestones` part.
        temperature_milestones: when the temperature changes.
    """

    target: float = field(0.5, TARGET)
    weight: float = field(10.0, NOT_NEGATIVE)
    noise_until: float = field(0.8, SHARE)
    temperature: tuple[float, ...] = field((1.0,), POSITIVE)
    temperature_milestones: tuple[float, ...] = field((), SHARE)

    def __post_init__(self) -> None:
        check_fields(self, "masks.")
        spans = len(self.temperature_milestones) + 1
        check(
            len(self.temperature) == spans,
            f"masks.temperature is {self.temperature}; expected {spans} values, one more than"
            f" masks.temperature_milestones, {self.temperature_milestones}",
        )
        check(
            list(self.temperature_milestones) == sorted(self.temperature_milestones),
            f"masks.temperature_milestones is {self.temperature_milestones}; expected rising shares",
        )


@dataclasses.dataclass(frozen=True)
class ExperimentConfig(BaseConfig):
    """Everything that defines a run."""

    SCHEMA: ClassVar[int] = 1

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    masks: MaskConfig = dataclasses.field(default_factory=MaskConfig)
