"""SegBlocks (arXiv 2011.12025): blocks at full or half resolution, chosen by a policy."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["policies"])
