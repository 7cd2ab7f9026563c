"""What low blocks are: the factor of their sides, and how they are upsampled where blocks are combined.

python -m segblocks_jax.experiments.sweep --sweep=experiments/ablations/low_resolution.py --runs=DIR
"""

from segblocks_jax.experiments.plan import Sweep


def get_sweep(preset: str) -> Sweep:
    """The rows; `preset` says which data they run on."""
    return Sweep(
        "Low blocks",
        {
            "half the side, bilinear": {},
            "half the side, nearest": {"semantics.low_upsampling": "nearest"},
            "half the side, blocks of 128": {"policy.block_size": 128},
            "a quarter of the side, blocks of 128": {
                "policy.block_size": 128,
                "policy.low_factor": 4,
            },
        },
    )
