"""ModelSpec: what builds and serves a classifier, stored beside its weights."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax.errors import InputError
from segblocks_jax.systems.classifier.network import BACKBONES, Net
from segblocks_jax.systems.classifier.prediction import Prediction


@dataclasses.dataclass(frozen=True)
class BaseSpec:
    """What the spec of any system that classifies images holds.

    Attributes:
        name: of the network.
        num_classes: of the logits.
        mean, std: RGB, of images scaled to [0, 1], that inputs are normalized with.
        crop: (height, width) that the network sees.
        resize: pixels of the shorter side before the central crop; None keeps the size.
        dataset: what it was trained on.
        class_names: in the order of the logits.
    """

    system: ClassVar[str]

    name: str
    num_classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: tuple[int, int]
    resize: int | None = None
    dataset: str | None = None
    class_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise InputError(
                f"ModelSpec: {len(self.class_names)} class_names for num_classes {self.num_classes}; give one per"
                " class, in the order of the logits"
            )

    def forward(self, modules: Any, image: Float[Array, "n h w 3"]) -> Prediction:
        """What modules in evaluation mode say of normalized images; traced."""
        return Prediction(modules.net(image))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Any:
        """The inverse of `to_dict`, also after a way through JSON; TypeError where a field is missing or unknown."""
        missing = [f.name for f in dataclasses.fields(cls) if f.name not in mapping]
        if missing:
            raise TypeError(f"{cls.__name__} lacks {', '.join(missing)}")
        return cls(**{k: _tuples(v) for k, v in mapping.items()})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


@dataclasses.dataclass(frozen=True)
class ModelSpec(BaseSpec):
    """Of the plain classifier; `width` is that of a ResNet."""

    system: ClassVar[str] = "classifier"

    width: int = 64

    def build(self, rngs: nnx.Rngs) -> nnx.Dict:
        """Builds ``{"net"}`` with random weights."""
        if self.name not in BACKBONES:
            raise InputError(f"ModelSpec: no network {self.name!r}; expected one of {BACKBONES}")
        return nnx.Dict(net=Net(self.name, self.num_classes, width=self.width, rngs=rngs))
