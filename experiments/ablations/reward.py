"""What the policy is paid for: the weight of sparsity against the task.

python -m segblocks_jax.experiments.sweep --sweep=experiments/ablations/reward.py --runs=DIR
"""

from segblocks_jax.experiments.plan import Sweep


def get_sweep(preset: str) -> Sweep:
    """The rows; `preset` says which data they run on."""
    return Sweep(
        "Weight of sparsity in the reward",
        {
            "0.3": {"policy.sparsity_weight": 0.3},
            "1.0": {"policy.sparsity_weight": 1.0},
            "3.0": {"policy.sparsity_weight": 3.0},
        },
    )
