"""Writes the table of slow tests in CONTRIBUTING.md: ``make test-full | python tests/durations.py``."""

import pathlib
import re
import sys

PAGE = pathlib.Path(__file__).resolve().parent.parent / "CONTRIBUTING.md"
BEGIN, END = "<!-- slow tests: begin", "<!-- slow tests: end -->"


def table(log: str) -> str:
    """The tests of the lines that `--durations` writes, the longest first; a fixture's time is its first test's."""
    seconds: dict[str, float] = {}
    for time, test in re.findall(r"^([\d.]+)s (?:setup|call) +tests/(\S+)", log, re.M):
        seconds[test] = seconds.get(test, 0) + float(time)
    rows = sorted(seconds.items(), key=lambda row: -row[1])
    return "\n".join(
        ["| Test | Seconds |", "|---|--:|", *(f"| `{t}` | {s:.0f} |" for t, s in rows)]
    )


if __name__ == "__main__":
    head, _, rest = PAGE.read_text().partition(BEGIN)
    line, _, rest = rest.partition("\n")
    tail = rest.partition(END)[2]
    PAGE.write_text(f"{head}{BEGIN}{line}\n{table(sys.stdin.read())}\n{END}{tail}")
