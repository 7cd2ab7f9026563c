"""Sizes of RANets: what can be chosen, which choices make a network, and the published ones."""

import dataclasses
import math

from segblocks_jax.errors import InputError

_STEP_MODES = ("even", "lg")
_STEMS = ("cifar", "imagenet")
_SMALLEST, _LARGEST = 5, 12  # Sides of maps that an exit makes one position of.
_LEAST = {"channels": 1, "growth": 1, "blocks": 1, "block_step": 1, "step": 2}


@dataclasses.dataclass(frozen=True)
class RANetOptions:
    """Options of RANet; the defaults are the published CIFAR network's.

    Tuples have an entry per sub-network, lowest resolution first.

    Attributes:
        scales: 1 is the lowest resolution, each step doubles it.
        growth_factors: on `growth`, and on `channels` for the features that the sub-network starts from.
        bottleneck_factors: channels inside a layer over those that it adds, at most.
        channels: of the stem, times the last growth factor.
        growth: channels that a layer adds, times the growth factor.
        blocks: of the first sub-network.
        block_step: how many more blocks each next one has.
        step: layers of a block.
        step_mode: "even", or "lg" for `step` times the block's number.
        reduction: share of the channels behind a transition.
        compress: share of the channels that come from the sub-network below.
        stem: "cifar", one convolution at full resolution; "imagenet", a quarter of it.
    """

    scales: tuple[int, ...] = (1, 2, 3, 3)
    growth_factors: tuple[int, ...] = (4, 2, 1, 1)
    bottleneck_factors: tuple[int, ...] = (4, 2, 1, 1)
    channels: int = 16
    growth: int = 6
    blocks: int = 2
    block_step: int = 2
    step: int = 4
    step_mode: str = "even"
    reduction: float = 0.5
    compress: float = 0.25
    stem: str = "cifar"

    def __post_init__(self) -> None:
        for name in ("scales", "growth_factors", "bottleneck_factors"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_lengths()
        self._check_scales()
        for name, least in _LEAST.items():
            _check(
                getattr(self, name) >= least,
                f"{name} is {getattr(self, name)}; expected at least {least}",
            )
        for name, known in (("step_mode", _STEP_MODES), ("stem", _STEMS)):
            value = getattr(self, name)
            _check(value in known, f"{name} is {value!r}; expected one of {known}")
        for name in ("reduction", "compress"):
            value = getattr(self, name)
            _check(0 < value < 1, f"{name} is {value}; expected a share between 0 and 1")
        added = min((self.growth * factor for factor in self.growth_factors[1:]), default=math.inf)
        _check(
            added * self.compress >= 1,
            f"growth is {self.growth}, so that a layer adds {added} channels, of which compress, {self.compress},"
            " leaves none to the sub-network below; expected a larger growth",
        )

    def _check_lengths(self) -> None:
        count = len(self.scales)
        _check(count > 0, "scales is empty; expected a scale per sub-network")
        for name in ("growth_factors", "bottleneck_factors"):
            value = getattr(self, name)
            _check(
                len(value) == count,
                f"{name} is {value}; expected one for each of the {count} scales",
            )
            _check(min(value) >= 1, f"{name} is {value}; expected numbers from 1")

    def _check_scales(self) -> None:
        steps = [b - a for a, b in zip(self.scales, self.scales[1:], strict=False)]
        fits = self.scales[0] == 1 and 1 not in self.scales[1:] and set(steps) <= {0, 1}
        _check(
            fits,
            f"scales are {self.scales}; expected the first sub-network to be the smallest: 1, then 2, and each"
            " further one the scale before or the next, such as (1, 2, 3, 3)",
        )

    @property
    def exits_of(self) -> tuple[int, ...]:
        """Number of exits of each sub-network."""
        return (self.blocks, *(self.block_step for _ in self.scales[1:]))

    @property
    def blocks_of(self) -> tuple[int, ...]:
        """Number of blocks of each sub-network."""
        return tuple(self.blocks + self.block_step * i for i in range(len(self.scales)))

    @property
    def stride(self) -> int:
        """Side of an image over that of the maps that exits see."""
        return (1 if self.stem == "cifar" else 4) * 2 ** (self.scales[-1] - 1)

    def check_size(self, size: tuple[int, int]) -> None:
        """Raises InputError for images of a (height, width) that the exits can't take."""
        low, high = (_SMALLEST - 1) * self.stride + 1, _LARGEST * self.stride
        if not all(low <= side <= high for side in size):
            raise InputError(
                f"RANet: images are {size[0]} x {size[1]} pixels; expected sides from {low} to {high}, of which its"
                f" exits see maps from {_SMALLEST} to {_LARGEST}; resize them"
            )

    def layers(self, block: int) -> int:
        """Number of layers of a block, by its number from 0."""
        return self.step * (1 if self.step_mode == "even" else block + 1)

    def downs(self, i: int) -> tuple[int, ...]:
        """Numbers, from 0, of the blocks of sub-network i that halve the size."""
        counts = self.blocks_of[:i]
        return tuple(count - 1 for count in counts[len(counts) - (self.scales[i] - 1) :])

    def transitions(self, i: int) -> tuple[int, ...]:
        """Numbers, from 0, of the blocks of sub-network i behind which the channels are reduced."""
        scale, count = self.scales[i], self.blocks_of[i]
        return tuple((k + 1) * count // scale - 1 for k in range(scale - 1))


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(f"RANet: {message}")


@dataclasses.dataclass(frozen=True)
class CifarLgOptions(RANetOptions):
    """The published CIFAR network of three sub-networks whose blocks grow."""

    scales: tuple[int, ...] = (1, 2, 3)
    growth_factors: tuple[int, ...] = (4, 2, 1)
    bottleneck_factors: tuple[int, ...] = (4, 2, 1)
    step: int = 2
    step_mode: str = "lg"


@dataclasses.dataclass(frozen=True)
class ImageNetOptions(RANetOptions):
    """The ImageNet network of the published figures, which the authors' module builds by default."""

    scales: tuple[int, ...] = (1, 2, 3, 4)
    growth_factors: tuple[int, ...] = (4, 2, 2, 1)
    bottleneck_factors: tuple[int, ...] = (4, 2, 2, 1)
    channels: int = 64
    growth: int = 16
    step: int = 8
    stem: str = "imagenet"


@dataclasses.dataclass(frozen=True)
class ImageNetReadmeOptions(ImageNetOptions):
    """The ImageNet network of the authors' README."""

    channels: int = 32


@dataclasses.dataclass(frozen=True)
class ImageNetScriptOptions(ImageNetOptions):
    """The ImageNet network of the authors' training script."""

    growth_factors: tuple[int, ...] = (4, 2, 1, 1)
    bottleneck_factors: tuple[int, ...] = (4, 2, 1, 1)
    channels: int = 16
