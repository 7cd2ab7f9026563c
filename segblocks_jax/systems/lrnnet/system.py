"""LRNNet as the training loop, sweeps and entry points know it."""

from segblocks_jax.systems.segblocks.system import SegBlocks


class LRNNet(SegBlocks):
    """Semantic segmentation by LRNNet (arXiv 2006.02706), of whole images or in SegBlocks' blocks.

    It shares SegBlocks' configuration, whose `model.name` is "lrnnet", its step and its evaluation.
    """


SYSTEM = LRNNet
