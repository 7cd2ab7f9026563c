"""The size of blocks, in pixels, as large as the preset's crops allow.

python -m segblocks_jax.experiments.sweep --sweep=experiments/ablations/block_size.py --runs=DIR
"""

from segblocks_jax.experiments.plan import Sweep


def get_sweep(preset: str) -> Sweep:
    """Street scenes have crops of 128 pixels, CamVid of 256 or 384, which 256 doesn't divide."""
    sizes = {"street_scenes": (64, 128), "camvid": (64, 128, 256), "camvid_gpu": (64, 128)}
    return Sweep(
        "Size of blocks",
        {f"{size}": {"policy.block_size": size} for size in sizes.get(preset, (64, 128, 256))},
    )
