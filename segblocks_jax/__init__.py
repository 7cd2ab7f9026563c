"""SegBlocks in JAX: semantic segmentation in blocks of dynamic resolution.

An image is cut into blocks; a policy decides which run at full and which at half resolution; the
network runs in blocks, padded with their neighbors' pixels, so that borders leave no trace.
"""

from typing import TYPE_CHECKING

from segblocks_jax.lazy import attach

if TYPE_CHECKING:
    from segblocks_jax.adaptive.cost import count_macs
    from segblocks_jax.blocks import (
        BlockGrid,
        DualRes,
        PaddedBlocks,
        block_conv,
        block_pad,
        combine,
        split,
    )
    from segblocks_jax.inference.engine import Engine
    from segblocks_jax.inference.exported import ExportedEngine
    from segblocks_jax.interop import (
        load_backbone,
        load_model,
        load_spec,
        load_torch_state_dict,
        save_model,
    )
    from segblocks_jax.models import create_model
    from segblocks_jax.nn import BlockOptions, Semantics
    from segblocks_jax.systems.segblocks import policies
    from segblocks_jax.systems.segblocks.spec import ModelSpec, PolicySpec
    from segblocks_jax.tasks.segmentation.result import Segmentation

__version__ = "0.1.0"

__all__ = [
    "BlockGrid",
    "BlockOptions",
    "DualRes",
    "Engine",
    "ExportedEngine",
    "ModelSpec",
    "PaddedBlocks",
    "PolicySpec",
    "Segmentation",
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

# Names are imported when first used, so that parts work without the others' packages: `blocks`, and
# exported engines, without Flax.
_NAMES = {
    "segblocks_jax.adaptive.cost": ("count_macs",),
    "segblocks_jax.blocks": (
        "BlockGrid",
        "DualRes",
        "PaddedBlocks",
        "block_conv",
        "block_pad",
        "combine",
        "split",
    ),
    "segblocks_jax.inference.engine": ("Engine",),
    "segblocks_jax.inference.exported": ("ExportedEngine",),
    "segblocks_jax.interop": (
        "load_backbone",
        "load_model",
        "load_spec",
        "load_torch_state_dict",
        "save_model",
    ),
    "segblocks_jax.models": ("create_model",),
    "segblocks_jax.nn": ("BlockOptions", "Semantics"),
    "segblocks_jax.systems.segblocks": ("policies",),
    "segblocks_jax.systems.segblocks.spec": ("ModelSpec", "PolicySpec"),
    "segblocks_jax.tasks.segmentation.result": ("Segmentation",),
}
__getattr__, __dir__ = attach(globals(), _NAMES)
