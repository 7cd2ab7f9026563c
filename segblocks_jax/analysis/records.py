"""Records of runs and the tables made of them: ``python -m segblocks_jax.analysis.records --runs=DIR``.

A folder of runs holds `runs/KEY/run.json`, a record each; `sweeps/NAME.json`, which runs a sweep's rows are;
and `tables/NAME.md` and `.csv`, which are made of these files and nothing else.
"""

import argparse
import csv
import io
import json
import math
import pathlib
import re
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from flax.traverse_util import flatten_dict

from segblocks_jax.errors import InputError, MissingFileError, UserError
from segblocks_jax.paths import expand
from segblocks_jax.systems.segblocks.migrations import current_record

RECORD = "run.json"
Record = dict[str, Any]

_COLUMNS = (
    "runs by seed",
    "mIoU",
    "GMACs per image",
    "share of high blocks",
    "mIoU at the target share",
    "boundary density, high over low",
    "images/s",
    "training, s",
)


def run_folder(runs: pathlib.Path, key: str) -> pathlib.Path:
    """The folder of one run."""
    return runs / "runs" / key


def read_records(runs: pathlib.Path) -> dict[str, Record]:
    """All finished runs, by key, in order of their keys."""
    files = sorted((runs / "runs").glob(f"*/{RECORD}"))
    return {file.parent.name: current_record(_read(file)) for file in files}


def read_sweeps(runs: pathlib.Path) -> list[dict[str, Any]]:
    """All sweeps, in order of their names, as `Plan.to_dict` gave them."""
    return [_read(file) for file in sorted((runs / "sweeps").glob("*.json"))]


def _read(file: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{file} is damaged ({error}); copy it again, or remove it and run its sweep again"
        ) from error


def write_tables(runs: pathlib.Path) -> list[pathlib.Path]:
    """Writes every sweep's Markdown and CSV table; the same bytes from the same records."""
    runs = expand(runs)
    if not runs.is_dir():
        raise MissingFileError(f"{runs}: no such folder of runs")
    records, written = read_records(runs), []
    for sweep in read_sweeps(runs):
        for suffix, format_table in (("md", format_markdown), ("csv", format_csv)):
            path = runs / "tables" / f"{sweep['name']}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(format_table(sweep, records), encoding="utf-8", newline="\n")
            written.append(path)
    return written


def format_markdown(sweep: dict[str, Any], records: dict[str, Record]) -> str:
    """One line per row of the sweep: means over its seeds, with the standard deviation where there are several."""
    lines = [f"**{sweep['title']}**{_conditions(sweep, records)}", ""]
    lines += [f"| | {' | '.join(_COLUMNS)} |", "|---" * (len(_COLUMNS) + 1) + "|"]
    for row in sweep["rows"]:
        found = [records[key] for key in row["runs"] if key in records]
        links = ", ".join(
            f"[{record['config']['seed']}](../runs/{record['key']}/{RECORD})" for record in found
        )
        cells = [links, *_cells(found)] if found else ["not run", *[""] * (len(_COLUMNS) - 1)]
        lines.append(f"| {row['label']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _conditions(sweep: dict[str, Any], records: dict[str, Record]) -> str:
    found = [records[key] for row in sweep["rows"] for key in row["runs"] if key in records]
    if not found:
        return ""
    named = {
        "split": {record["split"] for record in found},
        "steps": {str(record["step"]) for record in found},
        "device": {record["device"] for record in found},
        # Twelve digits, and whether there were changes.
        "commit": {re.sub(r"^([^+]{12})[^+]*", r"\1", str(record["commit"])) for record in found},
    }
    return " (" + "; ".join(f"{name} {', '.join(sorted(v))}" for name, v in named.items()) + ")"


def _cells(found: Sequence[Record]) -> Iterator[str]:
    metrics = [record["metrics"] for record in found]
    held = [record["at_target"] for record in found if record["at_target"]]
    yield _percent([m["miou"] for m in metrics])
    yield _mean([m["gmacs"] for m in metrics], ".3f")
    shares = [m["high_fraction"] for m in metrics if m["high_fraction"] is not None]
    yield _percent(shares) if shares else "dense"
    yield _percent([m["miou"] for m in held])
    yield _mean([m["boundary_ratio"] for m in metrics], ".2f")
    yield _mean([m["images_per_second"] for m in metrics], ".1f")
    yield _mean([record["time"]["train_seconds"] for record in found], ".0f")


def _percent(values: Sequence[float]) -> str:
    scaled = [100 * value for value in values if value is not None]
    if not scaled:
        return ""
    std = f" ± {statistics.stdev(scaled):.1f}" if len(scaled) > 1 else ""
    return f"{statistics.fmean(scaled):.1f}{std}%"


def _mean(values: Sequence[float | None], style: str) -> str:
    given = [value for value in values if value is not None]
    return format(statistics.fmean(given), style) if given else ""


def format_csv(sweep: dict[str, Any], records: dict[str, Record]) -> str:
    """One line per run, with every number of its record."""
    lines, groups = [], ("metrics", "at_target", "counts", "time")
    for row in sweep["rows"]:
        for key, record in ((key, records[key]) for key in row["runs"] if key in records):
            head = {"row": row["label"], "run": key, "seed": record["config"]["seed"]}
            flat = flatten_dict({group: record[group] for group in groups}, sep="/")
            lines.append(head | {name: _cell(value) for name, value in flat.items()})
    columns = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return "x".join(map(str, value)) if isinstance(value, list) else value


def main() -> None:
    """Writes the tables of --runs again, and says where."""
    parser = argparse.ArgumentParser(prog="python -m segblocks_jax.analysis.records")
    parser.add_argument("--runs", required=True, type=expand, help="folder of the runs")
    try:
        written = write_tables(parser.parse_args().runs)
    except (UserError, OSError) as error:
        parser.error(str(error))
    print(*written, sep="\n")


if __name__ == "__main__":
    main()
