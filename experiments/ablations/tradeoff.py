"""Operations against mIoU: SegBlocks at several targets, and static networks that see smaller images.

python -m segblocks_jax.experiments.sweep --sweep=experiments/ablations/tradeoff.py --runs=DIR
"""

from segblocks_jax.experiments.plan import Sweep, base_fields

SCALES = (1.0, 0.75, 0.5)
TARGETS = (0.2, 0.4, 0.6)


def get_sweep(preset: str) -> Sweep:
    """The preset's network; on Cityscapes the published backbones."""
    own = base_fields(preset)["model"]["name"].removeprefix("swiftnet_")
    names = ("rn18", "rn50", "efflite1") if preset == "cityscapes" else (own,)
    rows = {}
    for name in names:
        model = {"model.name": f"swiftnet_{name}"}
        for scale in SCALES:
            row = {**model, "policy.name": "static", "model.input_scale": scale}
            rows[f"{name}, static, input x {scale}"] = row
        for target in TARGETS:
            rows[f"{name}, target {target}"] = {**model, "policy.target": target}
    return Sweep("Operations against mIoU", rows)
