"""ModelSpec: what builds and serves a RANet again, without its weights."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax import models
from segblocks_jax.errors import InputError
from segblocks_jax.systems.classifier.prediction import Prediction
from segblocks_jax.systems.classifier.spec import BaseSpec
from segblocks_jax.systems.ranet.fits import Fit, fingerprint


@dataclasses.dataclass(frozen=True)
class ModelSpec(BaseSpec):
    """A network, the images that it is for, and its thresholds.

    Attributes:
        options: of the network, by name; see `create_model`.
        fits: thresholds for many budgets, fitted on held-out images; none for a network without them.
        weights: `fingerprint` of the network that the fits are of.
    """

    system: ClassVar[str] = "ranet"

    options: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    fits: tuple[Fit, ...] = ()
    weights: str | None = None

    def build(self, rngs: nnx.Rngs) -> nnx.Dict:
        """Builds ``{"net"}`` with random weights; raises as `create_model`."""
        net = models.create_model(self.name, self.num_classes, rngs=rngs, **self.options)
        return nnx.Dict(net=net)

    def forward(self, modules: Any, image: Float[Array, "n h w 3"]) -> Prediction:
        """The last exit's answer, and those of all."""
        exits = modules.net(image)
        return Prediction(exits[-1], tuple(exits))

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
        """Nested plain values, for JSON."""
        return dataclasses.asdict(dataclasses.replace(self, options=dict(self.options)))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Any:
        """The inverse of `to_dict`, also after a way through JSON; TypeError where a field is missing or unknown."""
        fields = dict(mapping)
        if "fits" in fields:
            fields["fits"] = [Fit.from_mapping(fit) for fit in fields["fits"]]
        if "options" in fields:
            given = fields["options"].items()
            fields["options"] = {k: tuple(v) if isinstance(v, list) else v for k, v in given}
        return super().from_mapping(fields)
