"""The configuration of an experiment: frozen dataclasses, checked before any data is opened."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from segblocks_jax.blocks.conv import CONV_IMPLEMENTATIONS
from segblocks_jax.data import DATASETS
from segblocks_jax.data.source import ON_ERROR
from segblocks_jax.errors import InvalidInputError
from segblocks_jax.interop import WEIGHT_SUFFIXES
from segblocks_jax.models import MODELS
from segblocks_jax.nn import BlockOptions, scaled_multiple
from segblocks_jax.systems.segblocks.policies import CHOICES, Policy, Reward, policy_type
from segblocks_jax.tasks.segmentation.augmentation import Augmentation
from segblocks_jax.training.structured_config import ConfigError, build, check


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What to train and evaluate on.

    Attributes:
        dataset: one of `segblocks_jax.data.DATASETS`.
        data_dir: its folder; None: the environment's, or a cache for street scenes.
        train_split, eval_split: "train", "val", "test" or "train_extra"; several with "+".
        on_error: "raise", or "skip" to leave out up to 1% of broken items when data are prepared.
        crop: (height, width) of training crops, in pixels.
        scale: range of the crop's side in the image, over `crop`.
        flip: probability of a horizontal flip.
        jitter: strength of brightness, contrast and saturation.
        hue: strength of the hue jitter, in turns.
        workers: processes that read and augment; 0: threads. No part of the batches' content.
        scenes: (train, val) number of street scenes.
        scene_size: (height, width) of street scenes, in pixels.
    """

    dataset: str = "cityscapes"
    data_dir: str | None = None
    train_split: str = "train"
    eval_split: str = "val"
    on_error: str = "raise"
    crop: tuple[int, int] = (1024, 1024)
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    jitter: float = 0.3
    hue: float = 0.1
    workers: int = 0
    scenes: tuple[int, int] = (200, 40)
    scene_size: tuple[int, int] = (256, 512)

    def __post_init__(self) -> None:
        check(
            self.dataset in DATASETS,
            f"data.dataset is {self.dataset!r}; expected one of {tuple(DATASETS)}",
        )
        check(
            self.on_error in ON_ERROR,
            f"data.on_error is {self.on_error!r}; expected one of {ON_ERROR}",
        )
        for field in ("train_split", "eval_split"):
            value, known = getattr(self, field), DATASETS[self.dataset].splits
            check(
                set(value.split("+")) <= set(known),
                f"data.{field} is {value!r}; expected some of {known}, joined by +",
            )
        check(self.workers >= 0, f"data.workers is {self.workers}; expected 0 or more")
        self.augmentation()

    def augmentation(self) -> Augmentation:
        """What happens to every training image.

        Raises:
            ConfigError: it can't.
        """
        try:
            return Augmentation(
                crop=self.crop,
                scale=self.scale,
                flip=self.flip,
                brightness=self.jitter,
                contrast=self.jitter,
                saturation=self.jitter,
                hue=self.hue,
            )
        except InvalidInputError as error:
            raise ConfigError(f"data: {error}") from error


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network.

    Attributes:
        name: one of `segblocks_jax.models.MODELS`.
        width: channels of the backbone's first stage, of LRNNet's second; 64 as published.
        features: channels of the decoder; None: as published.
        dilations: of LRNNet's third stage, one a block; None: as in docs/lrnnet.md.
        pretrained: a .pth, .pt (both need PyTorch), .safetensors or .npz file of backbone weights that
            training starts from; see `load_backbone`. As published, `optim.backbone_multiplier` is
            0.25 then; it is not changed here. A run that continues from a checkpoint doesn't read it.
        conv_implementation: how convolutions run in training: "ffi", "xla" or "pad"; None: what is
            faster on the machine. See `segblocks_jax.block_conv`.
        dropout: factor on the rates of the network's dropout; 0 for none, which short schedules want.
        input_scale: side of what the network sees over the image's, for policy "static": a baseline of
            fewer operations, trained and evaluated at the labels' full size.
    """

    name: str = "swiftnet_rn18"
    width: int = 64
    features: int | None = None
    dilations: tuple[int, ...] | None = None
    pretrained: str | None = None
    conv_implementation: str | None = None
    dropout: float = 1.0
    input_scale: float = 1.0

    def __post_init__(self) -> None:
        check(self.name in MODELS, f"model.name is {self.name!r}; expected one of {MODELS}")
        for field in ("width", "features"):
            value = getattr(self, field)
            fits = value is None or value > 0
            check(fits, f"model.{field} is {value}; expected a positive number of channels")
        check(
            self.dilations is None
            or (self.name == "lrnnet" and min(self.dilations, default=0) > 0),
            f"model.dilations is {self.dilations} for {self.name}; expected None, or positive numbers for"
            " lrnnet, one a block of its third stage",
        )
        ways = (None, *CONV_IMPLEMENTATIONS)
        check(
            self.conv_implementation in ways,
            f"model.conv_implementation is {self.conv_implementation!r}; expected one of {ways}",
        )
        check(
            0 <= self.dropout <= 1,
            f"model.dropout is {self.dropout}; expected a factor from 0 to 1",
        )
        try:
            scaled_multiple(self.input_scale)
        except InvalidInputError as error:
            raise ConfigError(f"model.{error}") from error
        known = self.pretrained is None or self.pretrained.endswith(WEIGHT_SUFFIXES)
        check(
            known,
            f"model.pretrained is {self.pretrained!r}; expected a file that ends in"
            f" {', '.join(WEIGHT_SUFFIXES)}",
        )


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
        reward, advantage, baseline, target_per, gain_every: how the reward of reinforce is made, see
            `policies.Reward`; the defaults are the authors'.
        entropy: weight of the mean entropy of the decisions, in nats, which is added to the reward.
    """

    name: str = "reinforce"
    block_size: int = 128
    target: float = 0.4
    sparsity_weight: float = 1.0
    bucket_step: float = 1 / 16
    low_factor: int = 2
    reward: str = "loss"
    advantage: str = "plain"
    baseline: str = "batch"
    target_per: str = "batch"
    gain_every: int = 1
    entropy: float = 0.0

    def __post_init__(self) -> None:
        check(self.name in CHOICES, f"policy.name is {self.name!r}; expected one of {CHOICES}")
        check(
            0 <= self.target <= 1, f"policy.target is {self.target}; expected a share from 0 to 1"
        )
        check(
            0 < self.bucket_step <= 1,
            f"policy.bucket_step is {self.bucket_step}; expected a share above 0, up to 1",
        )
        check(
            self.block_size > 0 and self.block_size % 32 == 0,
            f"policy.block_size is {self.block_size}; expected a positive multiple of 32",
        )
        check(self.low_factor >= 1, f"policy.low_factor is {self.low_factor}; expected at least 1")
        check(
            self.entropy >= 0, f"policy.entropy is {self.entropy}; expected a weight of 0 or more"
        )
        self.full_reward()

    @property
    def kind(self) -> type[Policy] | None:
        """The class of the policy, which says what it needs; None for the dense network."""
        return policy_type(self.name)

    def full_reward(self) -> Reward:
        """How the reward of a learned policy is made.

        Raises:
            ConfigError: an unknown way.
        """
        try:
            return Reward(
                target=self.target,
                weight=self.sparsity_weight,
                kind=self.reward,  # type: ignore[arg-type]
                advantage=self.advantage,  # type: ignore[arg-type]
                baseline=self.baseline,  # type: ignore[arg-type]
                target_per=self.target_per,  # type: ignore[arg-type]
                gain_every=self.gain_every,
            )
        except InvalidInputError as error:
            raise ConfigError(f"policy: {error}") from error


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Adam with L2 weight decay in the gradient and a cosine schedule, as published.

    Attributes:
        batch_size: images a step, over all devices.
        steps: optimizer steps; the schedule ends there.
        learning_rate, final_learning_rate: at the start and at the end.
        b1, b2: decay of Adam's moments.
        weight_decay: added to the gradient as ``weight_decay * parameter``.
        backbone_multiplier: of the backbone's learning rate and decay; as published, 0.25 with
            `model.pretrained` and 1 without.
        policy_multiplier: of the policy's learning rate and decay.
        loss: "cross_entropy", or "bootstrapped" (the hardest pixels of every image).
        accumulate: parts that a step's batch is run in, one after the other; see `training.step`.
        sync_batch_norm: batch norms normalize by the images of all devices; False: each device by its own,
            and running statistics are the devices' mean.
    """

    batch_size: int = 8
    steps: int = 130_000
    learning_rate: float = 4e-4
    final_learning_rate: float = 1e-6
    b1: float = 0.5
    b2: float = 0.999
    weight_decay: float = 1e-4
    backbone_multiplier: float = 1.0
    policy_multiplier: float = 1.0
    loss: str = "cross_entropy"
    accumulate: int = 1
    sync_batch_norm: bool = True

    def __post_init__(self) -> None:
        losses = ("cross_entropy", "bootstrapped")
        check(self.loss in losses, f"optim.loss is {self.loss!r}; expected one of {losses}")
        for field in ("batch_size", "steps", "learning_rate"):
            value = getattr(self, field)
            check(value > 0, f"optim.{field} is {value}; expected a positive number")
        check(
            self.accumulate >= 1 and self.batch_size % self.accumulate == 0,
            f"optim.accumulate is {self.accumulate}; expected a divisor of optim.batch_size,"
            f" {self.batch_size}",
        )


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How often the training loop does what.

    Attributes:
        eval_every, checkpoint_every, log_every: in steps; the last step does all three.
        eval_batch_size: images a batch in evaluation.
        eval_sizes: how many sizes evaluation may pad images to; each takes programs of its own.
        keep_checkpoints: how many of the latest to keep, besides the best.
        warm_up: compiles the step for every number of high blocks at the start, not when first needed.
        eval_pictures: how many images, the first, each evaluation shows in TensorBoard; 0 for none.
        wandb: project of Weights & Biases that gets the logs too; needs the extra `wandb`.
    """

    eval_every: int = 5_000
    checkpoint_every: int = 5_000
    log_every: int = 50
    eval_batch_size: int = 1
    eval_sizes: int = 8
    keep_checkpoints: int = 2
    warm_up: bool = False
    eval_pictures: int = 4
    wandb: str | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), int(field.name != "eval_pictures")
            check(
                isinstance(value, bool) or not isinstance(value, int) or value >= least,
                f"loop.{field.name} is {value}; expected at least {least}",
            )


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """Everything that defines a run.

    Attributes:
        name: of the experiment, in reports.
        seed: of weights, data order and sampling.
        precision: "float32", or "bfloat16" for the network's activations; parameters, statistics,
            losses and the policy stay float32.
        rematerialize: the backward pass keeps of the network's activations only those between residual
            blocks and decoder steps, and computes the others again: less memory, more time.
    """

    name: str = "experiment"
    seed: int = 0
    precision: str = "float32"
    rematerialize: bool = False
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    policy: PolicyConfig = PolicyConfig()
    semantics: BlockOptions = dataclasses.field(default_factory=BlockOptions)
    optim: OptimConfig = OptimConfig()
    loop: LoopConfig = LoopConfig()

    def __post_init__(self) -> None:
        precisions = ("float32", "bfloat16")
        check(
            self.precision in precisions,
            f"precision is {self.precision!r}; expected one of {precisions}",
        )
        static, scale = self.policy.kind is None, self.model.input_scale
        check(
            static or scale == 1,
            f"model.input_scale is {scale} with policy {self.policy.name}; only policy.name=static sees a"
            " smaller image",
        )
        multiple = scaled_multiple(scale) if static else self.policy.block_size
        why = "the network's stride, scaled" if static else "policy.block_size"
        for side in self.data.crop:
            check(
                side > 0 and side % multiple == 0,
                f"data.crop is {self.data.crop}; expected multiples of {multiple} ({why})",
            )
        way = self.model.conv_implementation
        check(
            self.semantics.padding == "block" or way in (None, "pad"),
            f"semantics.padding is {self.semantics.padding!r}, which model.conv_implementation {way!r} does"
            " not have; expected 'pad' or None",
        )

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "ExperimentConfig":
        """Builds the configuration from nested mappings, e.g. an `ml_collections.ConfigDict`.

        Raises:
            ConfigError: an unknown field, a value of another type, or values that don't fit together.
        """
        return build(cls, mapping)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionaries, for JSON and for ConfigDicts."""
        return dataclasses.asdict(self)
