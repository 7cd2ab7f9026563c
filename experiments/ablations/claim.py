"""Whether blocks pay: static networks of similar cost, targets, zero padding and a random policy, at least two seeds.

python -m segblocks_jax.experiments.sweep --sweep=experiments/ablations/claim.py --preset=camvid \
        --data_dir=FOLDER --runs=DIR
"""

from segblocks_jax.experiments.plan import Sweep


def get_sweep(preset: str) -> Sweep:
    """All rows are of one backbone; the runs that other sweeps share are trained once."""
    static = {
        f"static, input x {scale}": {"policy.name": "static", "model.input_scale": scale}
        for scale in (1.0, 0.75, 0.5)
    }
    targets = {f"target {target}": {"policy.target": target} for target in (0.2, 0.4, 0.6)}
    others = {
        "target 0.4, zero padding": {"semantics.padding": "zero"},
        "random, 0.4": {"policy.name": "random"},
    }
    return Sweep("Blocks against static networks", {**static, **targets, **others})
