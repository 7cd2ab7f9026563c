"""ModelSpec: what builds and serves a RANet again, without its weights."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from flax import nnx

from segblocks_jax import models
from segblocks_jax.errors import InputError
from segblocks_jax.systems.ranet.fits import Fit, fingerprint

SCHEMA = 1
"""Version of the names below in files."""


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A network, the images that it is for, and its thresholds.

    Attributes:
        name: of the network, see `create_model`.
        num_classes: of the logits.
        size: (height, width) of images.
        options: of the network, by name.
        mean, std: RGB, of images scaled to [0, 1], that inputs are normalized with.
        dataset: what it was trained on.
        class_names: in the order of the logits.
        fits: thresholds for many budgets, fitted on held-out images; none for a network without them.
        weights: `fingerprint` of the network that the fits are of.
    """

    system: ClassVar[str] = "ranet"

    name: str
    num_classes: int
    size: tuple[int, int]
    options: Mapping[str, Any] = MappingProxyType({})
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    dataset: str | None = None
    class_names: tuple[str, ...] | None = None
    fits: tuple[Fit, ...] = ()
    weights: str | None = None

    def __post_init__(self) -> None:
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise InputError(
                f"ModelSpec: {len(self.class_names)} class_names for num_classes {self.num_classes}; give one per"
                " class, in the order of the logits"
            )

    def build(self, rngs: nnx.Rngs) -> nnx.Dict:
        """Builds ``{"net"}`` with random weights; raises as `create_model`."""
        net = models.create_model(self.name, self.num_classes, rngs=rngs, **self.options)
        return nnx.Dict(net=net)

    def check_fits(self, net: Any) -> None:
        """Raises InputError unless the fits are of this network: its exits, and its weights."""
        exits = len(net.stages)
        found = {len(fit.thresholds) for fit in self.fits} - {exits}
        if found:
            raise InputError(
                f"thresholds of {min(found)} exits are of another model: this network has {exits}; fit them again,"
                " on held-out images"
            )
        if self.fits and self.weights != fingerprint(net):
            raise InputError(
                "thresholds of another model: they were fitted with other weights than the network's; fit them"
                " again, on held-out images"
            )

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values and the version of their names, for JSON."""
        fields = dataclasses.asdict(dataclasses.replace(self, options=dict(self.options)))
        return {"schema": SCHEMA, **fields}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "ModelSpec":
        """The inverse of `to_dict`, also after a way through JSON.

        Raises:
            TypeError: an unknown field, or one is missing.
            ValueError: a later version, or a bad value.
        """
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in mapping.items()}
        if (version := fields.pop("schema", None)) != SCHEMA:
            raise InputError(
                f"ModelSpec: schema is {version!r}, expected {SCHEMA}; use the version of the package that wrote it"
            )
        missing = [spec.name for spec in dataclasses.fields(cls) if spec.name not in fields]
        if missing:
            raise TypeError(f"ModelSpec lacks {', '.join(missing)}")
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in fields["options"].items()}
        fits = tuple(map(Fit.from_mapping, fields["fits"]))
        return cls(**{**fields, "options": options, "fits": fits})
