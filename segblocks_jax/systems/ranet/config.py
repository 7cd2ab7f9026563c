"""The configuration of an experiment with RANet."""

import dataclasses
from typing import Any, ClassVar

from segblocks_jax.errors import InputError
from segblocks_jax.models import network_entry
from segblocks_jax.structured_config import COUNT, ConfigError, check_fields, field, one_of
from segblocks_jax.systems.classifier.config import BaseConfig
from segblocks_jax.systems.ranet.options import RANetOptions

NETWORKS = (
    "ranet_cifar_even",
    "ranet_cifar_lg",
    "ranet_imagenet_main",
    "ranet_imagenet_readme",
    "ranet_imagenet_train_sh",
)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network.

    Attributes:
        name: one of `NETWORKS`.
        scales, growth_factors, bottleneck_factors, channels, growth, blocks, block_step, step, step_mode: see
            `segblocks_jax.systems.ranet.options.RANetOptions`; None: as published.
    """

    name: str = field("ranet_cifar_even", one_of(NETWORKS))
    scales: tuple[int, ...] | None = None
    growth_factors: tuple[int, ...] | None = None
    bottleneck_factors: tuple[int, ...] | None = None
    channels: int | None = field(None, COUNT)
    growth: int | None = field(None, COUNT)
    blocks: int | None = field(None, COUNT)
    block_step: int | None = field(None, COUNT)
    step: int | None = field(None, COUNT)
    step_mode: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "model.")
        self.sizes()

    @property
    def options(self) -> dict[str, Any]:
        """What differs from the published network, by name."""
        fields = dataclasses.asdict(self)
        return {k: v for k, v in fields.items() if k != "name" and v is not None}

    def sizes(self) -> RANetOptions:
        """All options; raises ConfigError where they make no network."""
        try:
            return network_entry(self.name).options(**self.options)
        except InputError as error:
            raise ConfigError(f"model: {error}") from error


@dataclasses.dataclass(frozen=True)
class ExperimentConfig(BaseConfig):
    """Everything that defines a run; thresholds are fitted on the images of `data.holdout`, if there are any."""

    SCHEMA: ClassVar[int] = 1

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            self.model.sizes().check_size(self.data.crop)
        except InputError as error:
            raise ConfigError(f"data.crop: {error}") from error
