"""ModelSpec: what builds a network and its policy again, without their weights."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from flax import nnx

from segblocks_jax import models
from segblocks_jax.errors import InputError
from segblocks_jax.inference.quantized import Ranges
from segblocks_jax.nn import BlockOptions, block_multiple, scaled_multiple
from segblocks_jax.systems.segblocks import policies
from segblocks_jax.systems.segblocks.migrations import (
    spec_from_0,
    spec_from_1,
    spec_from_2,
    spec_from_3,
    spec_from_4,
    spec_from_5,
)
from segblocks_jax.traced import InBlocks

SCHEMA = 6
"""Version of the names below in files; `migrations` has the earlier ones."""
_STEPS = (spec_from_0, spec_from_1, spec_from_2, spec_from_3, spec_from_4, spec_from_5)
_MIGRATIONS = dict(enumerate(_STEPS))


@dataclasses.dataclass(frozen=True)
class PolicySpec:
    """A policy and how its decisions run.

    Attributes:
        name: one of `policies.POLICIES`.
        block_size: side of a block in pixels.
        target: share of high blocks.
        threshold: see `policies.create`.
        bucket_step: the number of high blocks is rounded up to a multiple of this share of all.
        low_factor: side of a high block over the side of a low one.
        features: channels of a learned policy's network.
    """

    name: str = "reinforce"
    block_size: int = 128
    target: float = 0.4
    threshold: float | None = None
    bucket_step: float = 1 / 16
    low_factor: int = 2
    features: int = 64

    @property
    def kind(self) -> type[policies.Policy]:
        """The class of the policy, which says what it needs."""
        kind = policies.policy_type(self.name)
        assert kind is not None
        return kind


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A network, perhaps with a policy, and the data that it is for.

    Attributes:
        name: one of `models.MODELS`; or "package.module:function", which creates the network.
        num_classes: of the logits.
        width, features, dilations, padding, stride_in: see `create_model`.
        semantics: how the network runs in blocks.
        policy: None for a network alone.
        mean, std: RGB, of images scaled to [0, 1], that inputs are normalized with.
        dataset: what it was trained on.
        class_names: in the order of the logits.
        class_colors: red, green and blue of each, 0 to 255, for pictures.
        input_scale: side of what a network without policy sees over that of the image, up to 1; its
            logits are resized back. A baseline that saves operations everywhere alike.
        quantization: what `segblocks_jax.quantize` measured for serving in int8; None: nothing.
    """

    system: ClassVar[str] = "segblocks"

    name: str
    num_classes: int
    width: int = 64
    features: int | None = None
    dilations: tuple[int, ...] | None = None
    padding: str = "symmetric"
    stride_in: str = "3x3"
    semantics: BlockOptions = dataclasses.field(default_factory=BlockOptions)
    policy: PolicySpec | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    dataset: str | None = None
    class_names: tuple[str, ...] | None = None
    class_colors: tuple[tuple[int, int, int], ...] | None = None
    input_scale: float = 1.0
    quantization: Ranges | None = None

    def __post_init__(self) -> None:
        for name in ("class_names", "class_colors"):
            given = getattr(self, name)
            if given is not None and len(given) != self.num_classes:
                raise InputError(
                    f"ModelSpec: {len(given)} {name} for num_classes {self.num_classes};"
                    " give one per class, in the order of the logits"
                )
        if self.policy is not None and self.input_scale != 1:
            raise InputError(
                f"ModelSpec: input_scale is {self.input_scale} beside a policy; only a network without one"
                " sees a smaller image, set it to 1"
            )
        scaled_multiple(self.input_scale)

    def build(self, rngs: nnx.Rngs, *, dropout: float = 1.0, auxiliary: bool = False) -> nnx.Dict:
        """Builds ``{"net", "policy"}``, or ``{"net"}`` without a policy, with random weights.

        Args:
            rngs: see `create_model`.
            dropout: factor on the network's rates, which play a part in training only.
            auxiliary: adds the heads that training alone uses.

        Raises:
            ValueError: the blocks don't fit the network; or see `create_model`, `policies.create`.
        """
        options = ("semantics", "width", "features", "dilations", "padding", "stride_in")
        given: dict[str, Any] = {name: getattr(self, name) for name in options}
        given |= {"auxiliary": True} if auxiliary else {}
        net = models.create_model(self.name, self.num_classes, dropout=dropout, rngs=rngs, **given)
        if self.policy is None:
            return nnx.Dict(net=net)
        if self.name in models.PLAIN:
            net = InBlocks(net, self.semantics)
        self.check_blocks(net)
        given = {name: getattr(self.policy, name) for name in ("block_size", "target", "threshold")}
        given["features"] = self.policy.features if "features" in self.policy.kind.options else None
        return nnx.Dict(net=net, policy=policies.create(self.policy.name, rngs=rngs, **given))

    def ranges(self) -> Ranges:
        """What the model was quantized with; InputError where it was not."""
        if self.quantization is None:
            raise InputError(
                "Engine: dtype is 'int8', but the model was not quantized: measure its ranges on images like those"
                " to come, spec = sb.quantize(model, spec, images), and give the engine this spec"
            )
        return self.quantization

    def check_blocks(self, net: models.Network) -> None:
        """Raises ValueError where the policy's blocks are too small for the network."""
        assert self.policy is not None
        side, factor = self.policy.block_size, self.policy.low_factor
        multiple = block_multiple(net, factor)
        if side < 1 or side % multiple:
            raise InputError(
                f"policy.block_size is {side}, but {self.name} needs a multiple of {multiple}, so that a low"
                " block has whole pixels at every layer"
            )

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values and the version of their names, for JSON."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "ModelSpec":
        """The inverse of `to_dict`, also after a way through JSON, and of earlier versions'.

        Raises:
            TypeError: an unknown field, or one is missing.
            ValueError: a later version, or a bad value.
        """
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in mapping.items()
        }
        version = fields.pop("schema", 0)
        while version != SCHEMA:
            if version not in _MIGRATIONS:
                raise InputError(
                    f"ModelSpec: schema is {version!r}, expected up to {SCHEMA}; use the version of the package"
                    " that wrote it"
                )
            fields, version = _MIGRATIONS[version](fields), version + 1
        if fields.get("class_colors") is not None:
            fields["class_colors"] = tuple(map(tuple, fields["class_colors"]))
        fields["semantics"] = _complete(BlockOptions, fields.get("semantics", {}))
        if fields.get("policy") is not None:
            fields["policy"] = _complete(PolicySpec, fields["policy"])
        if fields.get("quantization") is not None:
            fields["quantization"] = {
                layer: {which: tuple(map(float, ends)) for which, ends in ranges.items()}
                for layer, ranges in fields["quantization"].items()
            }
        return _complete(cls, fields)


def _complete(cls: Any, fields: Mapping[str, Any]) -> Any:
    """Builds a dataclass of all its fields: what a file lacks isn't today's default."""
    missing = [spec.name for spec in dataclasses.fields(cls) if spec.name not in fields]
    if missing:
        raise TypeError(f"{cls.__name__} lacks {', '.join(missing)}")
    return cls(**fields)
