"""LRNNet as the training loop, sweeps and entry points know it."""

from typing import Any

from segblocks_jax.structured_config import check
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.systems.segblocks.system import SegBlocks


class LRNNet(SegBlocks):
    """Semantic segmentation by LRNNet (arXiv 2006.02706), of whole images or in SegBlocks' blocks.

    It shares SegBlocks' configuration, whose `model.name` is "lrnnet", its step and its evaluation.
    """

    def __init__(self, config: ExperimentConfig, **options: Any) -> None:
        """Opens no data yet; `options` as for `SegBlocks`. Raises ConfigError for another network's configuration."""
        name = config.model.name
        check(name == "lrnnet", f"model.name is {name!r}; expected 'lrnnet' for the system lrnnet")
        super().__init__(config, **options)


SYSTEM = LRNNet
