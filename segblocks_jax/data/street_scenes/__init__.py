"""Procedural street scenes with Cityscapes labels: data without a download.

`render(seed, height, width)` draws one scene; `write` makes a set on disk that the Cityscapes
reader reads. Needs NumPy and Pillow only.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
