"""Records of runs, tables and reports made of them, time and memory by part.

Nothing is imported here, so that counting works without Pillow.
"""

__all__ = ["macs", "pictures"]
