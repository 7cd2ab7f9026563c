"""SegBlocks in JAX: semantic segmentation in blocks of dynamic resolution.

An image is cut into blocks; a policy decides which run at full and which at half resolution; the
network runs in blocks, padded with their neighbors' pixels, so that borders leave no trace.

Names are listed in `__init__.pyi` and imported when first used, so that parts work without the
others' packages: `blocks`, and exported engines, without Flax.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
