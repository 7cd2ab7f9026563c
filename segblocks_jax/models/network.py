"""Network: the protocol of networks, their registry entries, and their weights' names in PyTorch."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from segblocks_jax.nn import BlockOptions


@runtime_checkable
class Network(Protocol):
    """A module that gives logits of an image, and of its blocks.

    The sides of blocks that it takes follow from its layers: see `segblocks_jax.nn.block_multiple`.

    Attributes:
        num_classes: of the logits.
        semantics: how it runs in blocks.
        output_stride: side of the image over that of the logits.
    """

    num_classes: int
    semantics: BlockOptions
    output_stride: int

    def __call__(self, x: Any) -> Any:
        """Normalized image (n, h, w, 3), or a `DualRes` of it -> logits, of the same kind."""

    def eval(self) -> None:
        """Puts all layers in evaluation mode, as every `flax.nnx.Module` does."""


@dataclasses.dataclass(frozen=True)
class NetworkEntry:
    """What `create_model` knows of a network.

    Attributes:
        options: a dataclass of what can be chosen; its defaults are as published.
        create: ``create(num_classes, options, semantics=..., rngs=...)`` gives the network.
        num_classes: as published.
    """

    options: type[Any]
    create: Callable[..., Any]
    num_classes: int = 19

    @property
    def option_names(self) -> tuple[str, ...]:
        """Names of the options."""
        return tuple(field.name for field in dataclasses.fields(self.options))


@dataclasses.dataclass(frozen=True)
class TorchNames:
    """What a module's weights are called in PyTorch checkpoints; its class attribute `torch_names`.

    The innermost module with names decides. `segblocks_jax.interop` renames the arrays of all layers alike.

    Attributes:
        place: of the module in a whole checkpoint, with a dot at its end.
        renames: patterns, and their replacements, of the path below the module, such as
            `levels.0.conv.kernel`; the first match of each applies.
        unused: pattern of names behind `place` that the module has no use for.
    """

    place: str
    renames: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = ()
    unused: str | None = None

    def below(self, path: str) -> str:
        """The name behind `place` of a path below the module."""
        for pattern, replacement in self.renames:
            path = re.sub(pattern, replacement, path)
        return path

    def passes_over(self, name: str) -> bool:
        """Whether the module does not use an array of a whole checkpoint, by its name."""
        if self.unused is None or not name.startswith(self.place):
            return False
        return re.match(self.unused, name.removeprefix(self.place)) is not None


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation that most ImageNet weights expect."""


@dataclasses.dataclass(frozen=True)
class Naming:
    """What files of published ImageNet weights call a backbone's modules, and what images the weights expect.

    A backbone's method `namings` gives those that it knows, and its `stem` the first convolution and its norm.

    Attributes:
        title: whose files they are.
        normalization: mean and standard deviation that are taken from pixels in 0..1; of R, G and B.
        modules: the names of `TorchNames` below its place, by the files' names; others are equal.
    """

    title: str
    normalization: tuple[tuple[float, float, float], tuple[float, float, float]]
    modules: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def own(self, name: str) -> str:
        """The name of a file's array as the backbone's `TorchNames` have it."""
        module, dot, array = name.rpartition(".")
        return self.modules.get(module, module) + dot + array
