"""A person in an image: where, how large, where the joints are."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from segblocks_jax.errors import InputError
from segblocks_jax.ops import no_type_check
from segblocks_jax.tasks.pose.affine import UNIT
from segblocks_jax.tasks.pose.joints import MPII


@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Person:
    """A person in an image; points are (x, y) in pixels from 0.

    Attributes:
        image: its file, or name.
        center: of what is cut out around the person.
        scale: width of that, in units of 200 pixels.
        joints: (16, 2), in the order of `MPII`.
        visible: (16,) which of them are known.
        head: two opposite corners of the head's box; None where it is unknown, and no PCKh.
    """

    image: str
    center: Float[np.ndarray, "2"]
    scale: float
    joints: Float[np.ndarray, "16 2"]
    visible: Bool[np.ndarray, "16"]
    head: Float[np.ndarray, "2 2"] | None = None

    def _inside(self, size: tuple[int, int]) -> Bool[np.ndarray, "16"]:
        height, width = size
        within = (self.joints >= -0.5) & (self.joints <= [width - 0.5, height - 0.5])
        return np.asarray(within.all(1))

    def within(self, size: tuple[int, int]) -> "Person":
        """The same person with joints outside an image of (height, width) taken as invisible."""
        return dataclasses.replace(self, visible=self.visible & self._inside(size))

    def check_inside(self, size: tuple[int, int], where: str) -> None:
        """Raises InputError, which calls the image `where`, unless all visible joints lie in it."""
        outside = np.flatnonzero(self.visible & ~self._inside(size))
        if outside.size:
            places = ", ".join(f"{MPII[i]} at {tuple(self.joints[i].tolist())}" for i in outside)
            raise InputError(
                f"{where}: of {size[0]} x {size[1]} pixels, has joints outside it: {places} (x, y from 0); correct"
                " the annotation, mark them as invisible, or set data.outside='hide', which does so"
            )

    @classmethod
    def frame(cls, size: tuple[int, int], crop: tuple[int, int]) -> "Person":
        """A whole image of (height, width) as if it were a person, for crops of another size; without joints."""
        (height, width), count = size, len(MPII)
        scale = max(width, height * crop[1] / crop[0]) / UNIT
        nothing = np.zeros((count, 2)), np.zeros(count, bool)
        return cls("", np.array([width / 2, height / 2]), scale, *nothing)
