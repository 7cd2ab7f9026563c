"""Batch statistics over all pixels, or over high and low blocks apart.

python -m segblocks_jax.experiments.sweep --sweep=experiments/ablations/batch_norm.py --runs=DIR
"""

from segblocks_jax.experiments.plan import Sweep


def get_sweep(preset: str) -> Sweep:
    """The rows; `preset` says which data they run on."""
    return Sweep(
        "Batch statistics",
        {
            "joint": {},
            "per resolution": {"semantics.batch_norm": "per_resolution"},
        },
    )
