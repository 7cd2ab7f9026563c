"""The parts of a configuration that training of any system has: the optimizer and the loop."""

import dataclasses

from segblocks_jax.structured_config import (
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Range,
    check,
    check_fields,
    field,
    one_of,
)

_DECAY = Range("a decay from 0 to below 1", lambda x: 0 <= x < 1)
_STEPS = Range("a positive number below 2**31", lambda x: 0 < x < 2**31)  # Counted in int32.


@dataclasses.dataclass(frozen=True)
class BaseOptimConfig:
    """What every optimizer has; `training.state` makes one of each kind of configuration.

    Attributes:
        batch_size: images per step, over all devices.
        steps: optimizer steps; the schedule ends there.
        learning_rate: at the start.
        weight_decay: added to the gradient as ``weight_decay * parameter``.
        accumulate: parts that a step's batch is run in, one after the other; see the system's step.
        sync_batch_norm: batch norms normalize by the images of all devices; False: each device by its own,
            and running statistics are the devices' mean.
        ema: decay of the exponential moving average of weights and running statistics that is evaluated, saved
            and exported in their place, see `training.state.averaged`; None: no average.
    """

    batch_size: int = field(8, POSITIVE)
    steps: int = field(130_000, _STEPS)
    learning_rate: float = field(4e-4, POSITIVE)
    weight_decay: float = field(1e-4, NOT_NEGATIVE)
    accumulate: int = field(1, COUNT)
    sync_batch_norm: bool = True
    ema: float | None = field(None, _DECAY)

    def __post_init__(self) -> None:
        check_fields(self, "optim.")
        check(
            self.batch_size % self.accumulate == 0,
            f"optim.accumulate is {self.accumulate}; expected a divisor of optim.batch_size,"
            f" {self.batch_size}",
        )


@dataclasses.dataclass(frozen=True)
class OptimConfig(BaseOptimConfig):
    """Adam with L2 weight decay in the gradient and a cosine schedule, as published for SegBlocks.

    Attributes:
        final_learning_rate: at the end.
        b1, b2: decay of Adam's moments.
    """

    final_learning_rate: float = field(1e-6, NOT_NEGATIVE)
    b1: float = field(0.5, _DECAY)
    b2: float = field(0.999, _DECAY)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            self.final_learning_rate <= self.learning_rate,
            f"optim.final_learning_rate is {self.final_learning_rate}; expected at most"
            f" optim.learning_rate, {self.learning_rate}",
        )


@dataclasses.dataclass(frozen=True)
class StagedOptimConfig(BaseOptimConfig):
    """SGD with momentum, or Adam, whose rate falls by stages or along a cosine.

    Attributes:
        optimizer: "sgd" or "adam".
        momentum: of SGD, ``m = momentum * m + g``.
        nesterov: whether SGD looks ahead.
        b1, b2: decay of Adam's moments.
        schedule: "stages": the rate is multiplied by `gamma` at each of `milestones`; "cosine": it falls to 0.
        milestones: shares of all steps.
        gamma: factor at a milestone.
        warmup: steps in which the rate rises from 0, in equal parts; the schedule's own course goes on meanwhile.
    """

    learning_rate: float = field(0.1, POSITIVE)
    optimizer: str = field("sgd", one_of(("sgd", "adam")))
    momentum: float = field(0.9, _DECAY)
    nesterov: bool = False
    b1: float = field(0.9, _DECAY)
    b2: float = field(0.999, _DECAY)
    schedule: str = field("stages", one_of(("stages", "cosine")))
    milestones: tuple[float, ...] = field((0.5, 0.75), SHARE)
    gamma: float = field(0.1, POSITIVE)
    warmup: int = field(0, NOT_NEGATIVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            list(self.milestones) == sorted(self.milestones),
            f"optim.milestones is {self.milestones}; expected shares of all steps in rising order",
        )


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How often the training loop does what.

    Attributes:
        eval_every, checkpoint_every, log_every: in steps; the last step does all three.
        eval_batch_size: images per batch in evaluation. High blocks are counted by the batch, so it affects
            which blocks run.
        eval_sizes: how many sizes evaluation may pad images to; each takes programs of its own. Padding
            affects the pixels near it and the number of blocks.
        keep_checkpoints: how many of the latest to keep, besides the best.
        warm_up: compiles the step for every number of high blocks at the start, not when first needed.
        eval_pictures: how many images, the first, each evaluation shows in TensorBoard; 0 for none.
        gain_images: on how many images, evenly spaced, each evaluation measures what blocks gain by running high:
            two more passes over each, with all blocks high and all low; 0 for none. Networks that see a smaller
            image have none.
        wandb: project of Weights & Biases that gets the logs too; needs the extra `wandb`.
    """

    eval_every: int = field(5_000, COUNT, affects="nothing")
    checkpoint_every: int = field(5_000, COUNT, affects="nothing")
    log_every: int = field(50, COUNT, affects="nothing")
    eval_batch_size: int = field(1, COUNT)
    eval_sizes: int = field(8, COUNT)
    keep_checkpoints: int = field(2, COUNT, affects="nothing")
    warm_up: bool = field(False, affects="nothing")
    eval_pictures: int = field(4, NOT_NEGATIVE, affects="nothing")
    gain_images: int = field(0, NOT_NEGATIVE, affects="nothing")
    wandb: str | None = field(None, affects="nothing")

    def __post_init__(self) -> None:
        check_fields(self, "loop.")
