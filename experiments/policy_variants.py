"""Compares rewards of the learned policy on the built-in street scenes: docs/policies.md.

    python experiments/policy_variants.py [--runs=runs/policy_variants] [--seeds=3]
    python experiments/policy_variants.py --table

Trains every variant with every seed and writes `experiments/results/policy_variants/VARIANT_SEED.json`: the
evaluation with the blocks that the policy wants (`metrics`) and with as many in every image, the best-scored
(`equal_operations`). A run whose file exists is skipped; one that was interrupted continues.

Hardware: two CPU cores. Time: docs/policies.md.
"""

import argparse
import json
import pathlib
import runpy

import jax
import numpy as np

from segblocks_jax.training import loop
from segblocks_jax.training.config import ExperimentConfig
from segblocks_jax.training.evaluate import evaluate
from segblocks_jax.training.logging import write_json
from segblocks_jax.training.sources import open_source

ROOT = pathlib.Path(__file__).resolve().parent
RESULTS = ROOT / "results" / "policy_variants"
STEPS = 200
EQUAL = "share=0.4"
VARIANTS = {
    "authors": {},
    "normalised": {"advantage": "normalised"},
    "image_entropy": {"baseline": "image", "entropy": 0.3},
    "gain": {"reward": "gain"},
    "random": {"name": "random"},
}
COLUMNS = {
    "mIoU, own blocks": ("metrics", "miou", 100),
    "share": ("metrics", "share_high", 100),
    "GMACs": ("metrics", "gmacs", 1),
    "mIoU, equal operations": ("equal_operations", "miou", 100),
    "GMACs ": ("equal_operations", "gmacs", 1),
    "boundary ratio": ("equal_operations", "boundary_ratio", 1),
}


def configuration(variant: str, seed: int) -> ExperimentConfig:
    """The quickstart, shorter and on smaller crops, with the variant's policy."""
    quickstart = runpy.run_path(str(ROOT / "configs" / "cityscapes" / "quickstart.py"))
    fields = quickstart["get_config"]().to_dict()
    fields |= {"name": f"policy_variants_{variant}", "seed": seed}
    fields["policy"] |= {"quantise_step": 0.25, **VARIANTS[variant]}
    fields["data"]["crop"] = (128, 128)
    # The published rate of the policy: at the quickstart's, it decides all blocks in 40 steps.
    fields["optim"] |= {"steps": STEPS, "policy_multiplier": 0.2}
    fields["loop"] |= {"eval_every": STEPS, "checkpoint_every": 100, "eval_pictures": 2}
    return ExperimentConfig.from_mapping(fields)


def run(variant: str, seed: int, runs: pathlib.Path) -> None:
    """Trains and evaluates one variant with one seed, unless it is done."""
    result = RESULTS / f"{variant}_{seed}.json"
    if result.exists():
        return
    config = configuration(variant, seed)
    train, val = (open_source(config, split, str(runs / "data")) for split in ("train", "val"))
    workdir = runs / f"{variant}_{seed}"
    loop.train(config, train, val, workdir)
    system, _ = loop.load_system(config, len(val.table.classes), workdir)
    fixed = evaluate(system, val, config, mode=EQUAL)
    report = json.loads((workdir / f"eval_{STEPS}.json").read_text())
    report["equal_operations"] = {"mode": EQUAL, **fixed.to_dict(val.table.classes)}
    write_json(result, report)
    jax.clear_caches()


def table() -> str:
    """Mean and sample deviation over seeds, in Markdown."""
    lines = [f"| variant | seeds | {' | '.join(map(str.strip, COLUMNS))} |"]
    lines.append("|---" * (len(COLUMNS) + 2) + "|")
    for variant in VARIANTS:
        files = sorted(RESULTS.glob(f"{variant}_[0-9].json"))
        reports = [json.loads(file.read_text()) for file in files]
        if len(reports) < 2:
            continue
        cells = []
        for group, name, factor in COLUMNS.values():
            values = np.array([report[group][name] for report in reports]) * factor
            cells.append(f"{values.mean():.3g} ± {values.std(ddof=1):.2g}")
        lines.append(f"| {variant} | {len(reports)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Runs what is left to run, a seed of all variants after the other, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/policy_variants"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        print(table())
        return
    cache = arguments.runs / "compilation_cache"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    for seed in range(arguments.seeds):
        for variant in VARIANTS:
            print(variant, seed, flush=True)
            run(variant, seed, arguments.runs.resolve())


if __name__ == "__main__":
    main()
