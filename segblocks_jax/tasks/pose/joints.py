"""The joints of a person, as MPII has them: names, order, mirror images, and bones between them."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


MPII = _words("rank rkne rhip lhip lkne lank pelv thor neck head rwri relb rsho lsho lelb lwri")
"""Names in the order of annotations and heat maps: right and left as the person has them."""
COUNT = len(MPII)
MIRRORED = tuple(
    MPII.index({"r": "l", "l": "r"}[name[0]] + name[1:]) if name[0] in "rl" else i
    for i, name in enumerate(MPII)
)
"""Which joint each one is in a mirror."""
BONES = tuple(
    (MPII.index(a), MPII.index(b))
    for a, b in (
        *(("rank", "rkne"), ("rkne", "rhip"), ("rhip", "pelv"), ("lank", "lkne"), ("lkne", "lhip")),
        *(("lhip", "pelv"), ("pelv", "thor"), ("thor", "neck"), ("neck", "head"), ("rwri", "relb")),
        *(("relb", "rsho"), ("rsho", "thor"), ("lwri", "lelb"), ("lelb", "lsho"), ("lsho", "thor")),
    )
)
"""Pairs of joints with a bone between them."""
PARTS = {
    "head": ("head",),
    "shoulder": ("lsho", "rsho"),
    "elbow": ("lelb", "relb"),
    "wrist": ("lwri", "rwri"),
    "hip": ("lhip", "rhip"),
    "knee": ("lkne", "rkne"),
    "ankle": ("lank", "rank"),
}
"""What scores are given for; the joints of each."""
UNSCORED = ("pelv", "thor")
"""Joints that play no part in mean scores."""
