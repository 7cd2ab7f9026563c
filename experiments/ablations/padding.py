"""What BlockPad is worth: blocks padded with their neighbors' pixels, with zeros, with their own border.

python -m segblocks_jax.experiments.sweep --sweep=experiments/ablations/padding.py --runs=DIR
"""

from segblocks_jax.experiments.plan import Sweep


def get_sweep(preset: str) -> Sweep:
    """The rows; `preset` says which data they run on."""
    return Sweep(
        "Padding of blocks",
        {
            "BlockPad": {},
            "zero": {"semantics.padding": "zero"},
            "clamp": {"semantics.padding": "clamp"},
            "BlockPad, upsampling in each block alone": {"semantics.interpolation": "block"},
        },
    )
