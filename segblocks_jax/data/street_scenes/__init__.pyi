from .files import SceneSet as SceneSet
from .files import write as write
from .scene import Scene as Scene
from .scene import render as render
