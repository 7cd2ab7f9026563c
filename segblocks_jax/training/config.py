"""What the training loop reads of an experiment's configuration."""

from typing import Any, Protocol


class RunConfig(Protocol):
    """A configuration of any system.

    Attributes:
        name: of the experiment, in reports.
        seed: of weights, data order and sampling.
        optim: with the fields of `OptimConfig`.
        loop: a `LoopConfig`.
    """

    name: str
    seed: int
    optim: Any
    loop: Any

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionaries, for JSON."""
