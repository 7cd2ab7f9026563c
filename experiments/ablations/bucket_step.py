"""How the number of high blocks is rounded up in training, and which blocks fill it.

python -m segblocks_jax.experiments.sweep --sweep=experiments/ablations/bucket_step.py --runs=DIR
"""

from segblocks_jax.experiments.plan import Sweep


def get_sweep(preset: str) -> Sweep:
    """The rows; `preset` says which data they run on."""
    return Sweep(
        "Rounding of the number of high blocks",
        {
            "to quarters, best-scored": {"policy.bucket_step": 0.25},
            "to quarters, random": {"policy.bucket_step": 0.25, "semantics.filling": "random"},
            "to halves, best-scored": {"policy.bucket_step": 0.5},
        },
    )
