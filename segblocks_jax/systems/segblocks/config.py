"""The configuration of an experiment: frozen dataclasses, checked before any data is opened."""

import dataclasses
from typing import Any, ClassVar

from segblocks_jax.data.config import DataConfig
from segblocks_jax.errors import InputError
from segblocks_jax.nn import BlockOptions, scaled_multiple
from segblocks_jax.structured_config import (
    COUNT,
    NOT_NEGATIVE,
    SHARE,
    Config,
    ConfigError,
    Range,
    check,
    check_fields,
    field,
    one_of,
)
from segblocks_jax.systems.segblocks import migrations
from segblocks_jax.systems.segblocks.model_config import ModelConfig
from segblocks_jax.systems.segblocks.policies import CHOICES, Policy, Reward, policy_type
from segblocks_jax.tasks.segmentation.class_weights import parse_weights
from segblocks_jax.training.config import LoopConfig, OptimConfig

_STEP = Range("a share above 0, up to 1", lambda x: 0 < x <= 1)
_SIDE = Range("a positive multiple of 32", lambda x: x > 0 and x % 32 == 0)
_WEIGHT = Range("a weight of 0 or more", lambda x: x >= 0)
SHARES = ("calibrated", "dual", "published")
_SEED = Range("a whole number from 0 to 2**32 - 1", lambda x: 0 <= x < 2**32)  # jax.random.key's.


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    """Who decides which blocks run at high resolution.

    Attributes:
        name: "static" (the dense network, without blocks) or one of `policies.POLICIES`.
        block_size: side of a block in pixels.
        target: share of high blocks.
        sparsity_weight: of the share in the reward, against the task.
        bucket_step: the number of high blocks is rounded up to a multiple of this share of all.
        low_factor: side of a high block over the side of a low one.
        features: channels of a learned policy's network; 64 as published, and fewer cost less.
        reward, advantage, baseline, target_per, gain_every: the reward of reinforce, see `policies.Reward`.
        learning: of a learned policy. "reinforce": from its reward; "supervised": the blocks whose losses fall most
            when they run high are told to it, every `gain_every` steps; the reward plays no part.
        entropy: weight of the mean entropy of the decisions, in nats, which is added to the reward.
        share: how a learned policy is made to keep `target`. "calibrated": what is evaluated and served has the
            threshold with which the target share of the training images' blocks runs high; "dual": a price
            of high blocks, learned in training by dual ascent; "published": neither. See docs/policies.md.
    """

    name: str = field("reinforce", one_of(CHOICES))
    block_size: int = field(128, _SIDE)
    target: float = field(0.4, SHARE)
    sparsity_weight: float = field(1.0, _WEIGHT)
    bucket_step: float = field(1 / 16, _STEP)
    low_factor: int = field(2, COUNT)
    features: int = field(64, COUNT)
    reward: str = "gain"
    advantage: str = "plain"
    baseline: str = "batch"
    target_per: str = "batch"
    gain_every: int = 1
    learning: str = field("reinforce", one_of(("reinforce", "supervised")))
    entropy: float = field(0.0, _WEIGHT)
    share: str = field("calibrated", one_of(SHARES))

    def __post_init__(self) -> None:
        check_fields(self, "policy.")
        self.full_reward()

    @property
    def kind(self) -> type[Policy] | None:
        """The class of the policy, which says what it needs; None for the dense network."""
        return policy_type(self.name)

    def full_reward(self) -> Reward:
        """How the reward of a learned policy is made; raises ConfigError for an unknown way."""
        same = ("target", "advantage", "baseline", "target_per", "gain_every")
        ways: dict[str, Any] = {name: getattr(self, name) for name in same}
        try:
            return Reward(weight=self.sparsity_weight, kind=self.reward, **ways)  # type: ignore[arg-type]
        except InputError as error:
            raise ConfigError(f"policy: {error}") from error


@dataclasses.dataclass(frozen=True)
class SegBlocksOptimConfig(OptimConfig):
    """The optimizer, and what is SegBlocks' own of it.

    Attributes:
        backbone_multiplier: of the backbone's learning rate and decay; as published, 0.25 with
            `model.pretrained` and 1 without.
        policy_multiplier: of the policy's learning rate and decay.
        freeze_network: trains the policy alone; the network stays as it is and runs as in evaluation.
        loss: "cross_entropy", or "bootstrapped" (the hardest pixels of every image).
        class_weights: of the pixels' losses, by their class: None (all 1), "median_frequency" (of the training
            labels), "camvid" (SegNet's), or numbers such as "0.5,1,2", one per class.
    """

    backbone_multiplier: float = field(1.0, NOT_NEGATIVE)
    policy_multiplier: float = field(1.0, NOT_NEGATIVE)
    freeze_network: bool = False
    loss: str = field("cross_entropy", one_of(("cross_entropy", "bootstrapped")))
    class_weights: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_weights is not None:
            try:
                parse_weights(self.class_weights)
            except InputError as error:
                raise ConfigError(f"optim.class_weights: {error}") from error


@dataclasses.dataclass(frozen=True)
class ExperimentConfig(Config):
    """Everything that defines a run.

    Attributes:
        name: of the experiment, in reports.
        seed: of weights, data order and sampling.
        precision: "float32", or "bfloat16" for the network's activations; parameters, statistics,
            losses and the policy stay float32.
        rematerialize: the backward pass keeps of the network's activations only those between residual
            blocks and decoder steps, and computes the others again: less memory, more time.
    """

    SCHEMA = 8
    MIGRATIONS: ClassVar = dict(enumerate(migrations.STEPS))
    RENAMED = migrations.RENAMED

    name: str = field("experiment", affects="nothing")
    seed: int = field(0, _SEED)
    precision: str = field("float32", one_of(("float32", "bfloat16")))
    rematerialize: bool = field(False, affects="rounding")
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    policy: PolicyConfig = dataclasses.field(default_factory=PolicyConfig)
    semantics: BlockOptions = dataclasses.field(default_factory=BlockOptions)
    optim: SegBlocksOptimConfig = dataclasses.field(default_factory=SegBlocksOptimConfig)
    loop: LoopConfig = dataclasses.field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_fields(self)
        kind, name, scale = self.policy.kind, self.policy.name, self.model.input_scale
        static, learned = kind is None, kind is not None and kind.learned
        check(
            static or scale == 1,
            f"model.input_scale is {scale} with policy {name}; only policy.name=static sees a smaller image",
        )
        check(
            learned or not self.optim.freeze_network,
            f"optim.freeze_network is set with policy {name}: there is nothing to train",
        )
        check(
            not self.model.auxiliary
            or self.model.name != "pidnet_s"
            or self.optim.loss == "cross_entropy",
            f"optim.loss is {self.optim.loss!r} beside model.auxiliary; PIDNet's loss chooses hard pixels in its own"
            " way, set it to 'cross_entropy'",
        )
        multiple = scaled_multiple(scale) if static else self.policy.block_size
        why = "the network's stride, scaled" if static else "policy.block_size"
        for side in self.data.crop:
            check(
                side > 0 and side % multiple == 0,
                f"data.crop is {self.data.crop}; expected multiples of {multiple} ({why})",
            )
        padding, way = self.semantics.padding, self.model.implementation
        check(
            padding == "block" or way in (None, "xla"),
            f"semantics.padding is {padding!r}, which model.implementation {way!r} does not have; expected"
            " 'xla' or None",
        )
