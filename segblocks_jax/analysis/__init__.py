"""Looking at what a network costs and what it did: `macs` counts operations, `pictures` draws.

Nothing is imported here, so that counting works without Pillow.
"""

__all__ = ["macs", "pictures"]
