"""Who decides: the learned policy against rules, and the two bounds of quality and cost.

python -m segblocks_jax.experiments.sweep --sweep=experiments/ablations/policy.py --runs=DIR
"""

from segblocks_jax.experiments.plan import Sweep


def get_sweep(preset: str) -> Sweep:
    """The rows; `preset` says which data they run on."""
    return Sweep(
        "Policies",
        {
            "reinforce": {},
            "heuristic": {"policy.name": "heuristic"},
            "random": {"policy.name": "random"},
            "middle": {"policy.name": "middle"},
            "oracle": {"policy.name": "oracle"},
            "all_high": {"policy.name": "all_high"},
            "all_low": {"policy.name": "all_low"},
        },
    )
