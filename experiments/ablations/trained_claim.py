"""Whether blocks pay, and whether policies learn, from a network that is trained: all rows take as many steps.

python -m segblocks_jax.experiments.sweep --sweep=experiments/ablations/trained_claim.py --preset=vessels \
        --data_dir=FOLDER --runs=DIR

Two thirds of the steps are dense, the last third in blocks. Static networks are dense in all of them.
"""

from segblocks_jax.experiments.plan import Sweep, base_fields

DENSE = "dense, two thirds"
POLICIES = {
    "gain": {"policy.reward": "gain"},
    "random": {"policy.name": "random"},
    "heuristic": {"policy.name": "heuristic"},
    "supervised": {"policy.learning": "supervised"},
    "loss": {"policy.reward": "loss"},
    "oracle": {"policy.name": "oracle"},
}


def get_sweep(preset: str) -> Sweep:
    """Rows of one network: static at three scales, policies at a target of 40%, the best at others."""
    first = base_fields(preset)["optim"]
    last = first["steps"] // 2
    static = {
        f"static, input x {scale}": {
            "policy.name": "static",
            "model.input_scale": scale,
            "optim.steps": first["steps"] + last,
        }
        for scale in (1.0, 0.75, 0.5)
    }
    blocks = {
        "after": DENSE,
        "policy.name": "reinforce",
        "optim.steps": last,
        "optim.learning_rate": first["learning_rate"] / 2,
    }
    policies = {f"{name}, 0.4": {**blocks, **fields} for name, fields in POLICIES.items()}
    gain = {**blocks, **POLICIES["gain"]}
    targets = {f"gain, {t}": {**gain, "policy.target": t} for t in (0.2, 0.6)}
    padding = {"gain, 0.4, zero padding": {**gain, "semantics.padding": "zero"}}
    return Sweep(
        "Blocks and policies from a trained network",
        {DENSE: {"policy.name": "static"}, **static, **policies, **targets, **padding},
    )
