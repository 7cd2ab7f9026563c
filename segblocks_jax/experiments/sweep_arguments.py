"""The command line of a sweep."""

import argparse
from collections.abc import Collection

from segblocks_jax.paths import expand


def arguments(presets: Collection[str]) -> argparse.ArgumentParser:
    """The flags of a sweep; `presets` are the choices of --preset."""
    parser = argparse.ArgumentParser(prog="python -m segblocks_jax.experiments.sweep")
    parser.add_argument(
        "--runs", required=True, type=expand, help="folder of runs, tables and report"
    )
    parser.add_argument(
        "--sweep", type=_names, help="files of sweeps; default: all in experiments/ablations"
    )
    parser.add_argument(
        "--preset", default="street_scenes", choices=presets, help="base and data of the runs"
    )
    parser.add_argument(
        "--seeds",
        type=_numbers,
        help="of every row, with tables of their own; default: the preset's",
    )
    parser.add_argument("--data_dir", help="folder of the data set")
    parser.add_argument("--no_report", action="store_true", help="tables only, without Matplotlib")
    return parser


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, _names(text)))
