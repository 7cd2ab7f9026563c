"""SegBlocks in JAX: semantic segmentation in blocks of dynamic resolution.

An image is cut into blocks; a policy decides which run at full and which at half resolution; the
network runs in blocks, padded with their neighbours' pixels, so that borders leave no trace.
"""

from segblocks_jax import policies
from segblocks_jax.analysis.macs import count_macs
from segblocks_jax.blocks import (
    BlockGrid,
    DualRes,
    PaddedBlocks,
    block_conv,
    block_pad,
    combine,
    split,
)
from segblocks_jax.interop import (
    ModelSpec,
    PolicySpec,
    load_backbone,
    load_model,
    load_spec,
    load_torch_state_dict,
    save_model,
)
from segblocks_jax.models import create_model
from segblocks_jax.nn import Semantics

__version__ = "0.1.0"

__all__ = [
    "BlockGrid",
    "DualRes",
    "ModelSpec",
    "PaddedBlocks",
    "PolicySpec",
    "Semantics",
    "block_conv",
    "block_pad",
    "combine",
    "count_macs",
    "create_model",
    "load_backbone",
    "load_model",
    "load_spec",
    "load_torch_state_dict",
    "policies",
    "save_model",
    "split",
]
