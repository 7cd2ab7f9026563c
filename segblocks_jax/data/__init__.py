"""Data: label tables, data sets, street scenes, augmentation and the input pipeline.

TFDS, Grain, OpenCV and Pillow are imported only by what needs them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
