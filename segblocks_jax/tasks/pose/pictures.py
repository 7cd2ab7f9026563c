"""Pictures of poses."""

import numpy as np
from jaxtyping import Float, UInt8

from segblocks_jax.errors import extra
from segblocks_jax.tasks.pose.joints import BONES, MPII

with extra("images", "pictures of poses"):
    from PIL import Image, ImageDraw

# A person's right, left and trunk; told apart with every common color blindness.
_COLORS = {"r": (230, 159, 0), "l": (86, 180, 233), "": (0, 158, 115)}


def draw_pose(
    image: UInt8[np.ndarray, "h w 3"],
    joints: Float[np.ndarray, "16 2"],
    scores: Float[np.ndarray, "16"] | None = None,
    threshold: float = 0.1,
) -> UInt8[np.ndarray, "h w 3"]:
    """The image with bones and joints on it, but for joints whose score is below the threshold."""
    picture = Image.fromarray(image)
    canvas = ImageDraw.Draw(picture)
    thick = max(2, min(image.shape[:2]) // 80)
    shown = np.ones(len(MPII), bool) if scores is None else scores >= threshold
    places = [(float(x), float(y)) for x, y in joints]
    for a, b in BONES:
        if shown[a] and shown[b]:
            side = next((MPII[i][0] for i in (a, b) if MPII[i][0] in "rl"), "")
            canvas.line([places[a], places[b]], fill=_COLORS[side], width=thick)
    for (x, y), known in zip(places, shown, strict=True):
        if known:
            canvas.ellipse([x - thick, y - thick, x + thick, y + thick], fill=(255, 255, 255))
    return np.array(picture)
