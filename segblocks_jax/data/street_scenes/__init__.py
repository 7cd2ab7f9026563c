"""Procedural street scenes with Cityscapes labels: data without a download.

`render(seed, height, width)` draws one scene; `write` makes a set on disk that the Cityscapes
reader reads. Needs NumPy and Pillow only.
"""

from segblocks_jax.data.street_scenes.files import SceneSet, write
from segblocks_jax.data.street_scenes.scene import Scene, render

__all__ = ["Scene", "SceneSet", "render", "write"]
