"""How many of a training's steps should be dense before blocks begin: all rows take as many in all.

python -m segblocks_jax.experiments.sweep --sweep=experiments/ablations/dense_steps.py --preset=vessels \
        --data_dir=FOLDER --runs=DIR

The static networks to compare with are those of `trained_claim`, where two thirds of the steps are dense.
"""

from segblocks_jax.experiments.plan import Sweep, base_fields


def get_sweep(preset: str) -> Sweep:
    """A target of 40% from no dense step, from a third of them, and from half."""
    base = base_fields(preset)["optim"]["steps"]
    total = base + base // 2
    gain = {"policy.name": "reinforce", "policy.reward": "gain"}
    rows = {"gain, none dense": {**gain, "optim.steps": total}}
    for name, dense in (("a third", total // 3), ("half", total // 2)):
        start = f"dense, {name}"
        rows[start] = {"policy.name": "static", "optim.steps": dense}
        blocks = {"after": start, "optim.steps": total - dense}
        rows[f"gain, {name} dense"] = {**gain, **blocks}
        rows[f"random, {name} dense"] = {"policy.name": "random", **blocks}
    return Sweep("Dense steps before blocks", rows)
