"""A Markdown table of evaluations: ``python -m segblocks_jax.analysis.table RUN/eval.json ...``."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from segblocks_jax.paths import expand
from segblocks_jax.systems.segblocks.migrations import current_record
from segblocks_jax.systems.segblocks.policies import policy_type

_HEAD = "| run | mIoU | GMACs per image | share of high blocks | images/s |\n|---|---|---|---|---|"


def format_table(evaluations: Sequence[dict[str, Any]]) -> str:
    """One row per evaluation, as `segblocks_jax.training.workdir.describe` gives it."""
    return "\n".join([_HEAD, *map(_row, evaluations)])


def _row(evaluation: dict[str, Any]) -> str:
    metrics, config = evaluation["metrics"], evaluation["config"]
    policy = config["policy"]["name"]
    in_blocks = policy_type(policy) is not None
    kind = f"SegBlocks, {policy} {config['policy']['target']:.0%}" if in_blocks else policy
    share, rate = metrics["high_fraction"], metrics["images_per_second"]
    cells = [
        f"{config['name']}: {kind}",
        f"{metrics['miou']:.1%}",
        f"{metrics['gmacs']:.3f}",
        "dense" if share is None else f"{share:.1%}",
        "not measured" if rate is None else f"{rate:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    read = (json.loads(expand(path).read_text()) for path in sys.argv[1:])
    print(format_table(list(map(current_record, read))))
