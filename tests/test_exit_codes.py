"""Exit codes are those of the table in docs/training.md, for every command."""

import errno
import os
import pathlib
import re
import sys

import pytest
from ml_collections import ConfigDict

from segblocks_jax.analysis import records, report
from segblocks_jax.data import __main__ as data
from segblocks_jax.data.street_scenes import __main__ as street_scenes
from segblocks_jax.errors import InputError, UnwritableError
from segblocks_jax.experiments import commands, run, sweep
from segblocks_jax.predict import __main__ as predict
from segblocks_jax.systems.segblocks import seams
from segblocks_jax.training.logging import NonFiniteError
from segblocks_jax.training.preemption import EXIT_CODE, Preempted

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs" / "training.md"
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "eval.json")

ENDS = {
    0: 0,
    1: 1,
    Preempted(7): EXIT_CODE,
    InputError("what, expected, remedy"): 2,
    NonFiniteError("step 3: loss = nan"): 2,
    UnwritableError("folder"): 2,
    FULL: 2,
}


@pytest.mark.parametrize("end", ENDS, ids=str)
def test_an_experiment(end, monkeypatch, capsys):
    def ends(*_):
        if isinstance(end, Exception):
            raise end
        return end

    for name in ("read_system", "_start_distributed"):
        monkeypatch.setattr(run, name, lambda *_, **__: None)
    for flag in ("_CONFIG", "_DATA_DIR", "_SPLIT"):
        monkeypatch.setattr(run, flag, type("Flag", (), {"value": None}))
    monkeypatch.setattr(run, "_WORKDIR", type("Flag", (), {"value": "run"}))
    monkeypatch.setattr(run, "_CONFIG", type("Flag", (), {"value": ConfigDict()}))
    monkeypatch.setattr(run, "_PHASE", type("Flag", (), {"value": None}))
    monkeypatch.setattr(run, "_run", ends)
    assert run._main(()) == ENDS[end]
    told = "".join(capsys.readouterr())
    assert "Traceback" not in told
    if isinstance(end, Exception):
        assert str(end) in told


def test_a_bug_keeps_its_traceback(monkeypatch):
    for flag in ("_CONFIG", "_DATA_DIR", "_SPLIT"):
        monkeypatch.setattr(run, flag, type("Flag", (), {"value": None}))
    monkeypatch.setattr(run, "read_system", lambda *_, **__: {}["missing"])
    with pytest.raises(KeyError):
        run._main(())


@pytest.mark.parametrize(
    ("end", "code"), [({}, 0), ({"run": "error"}, 1), (Preempted(7), EXIT_CODE), (FULL, 2)], ids=str
)
def test_a_sweep(end, code, tmp_path, monkeypatch, capsys):
    def ends(*_):
        if isinstance(end, Exception):
            raise end
        return end

    monkeypatch.setattr(sweep, "load_plan", lambda *_: None)
    monkeypatch.setattr(sweep, "sweep", ends)
    assert sweep.main([f"--runs={tmp_path}", "--sweep=a", "--no_report"]) == code
    assert sweep.main(["--runs=/dev/null/x", "--sweep=a"]) == 2
    assert "can't write here" in capsys.readouterr().err


def test_a_result_that_cannot_be_written_is_1_and_one_line(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise FULL

    monkeypatch.setattr(commands, "write_json", full)
    assert commands._write(tmp_path / "eval.json", {}) == 1
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert "No space left on device" in text


@pytest.mark.parametrize(
    ("main", "arguments", "code"),
    [
        (data.main, ["prepare", "cityscapes", "--data_dir=/dev/null/x"], 2),
        (data.main, ["sheet", "camvid", "--data_dir=/dev/null/x", "--output=/dev/null/x.png"], 2),
        (street_scenes.main, ["--out=/dev/null/x", "--train=1", "--val=1"], 2),
        (report.main, ["--runs=/dev/null/x"], 2),
        (records.main, ["--runs=/dev/null/x"], 2),
        (seams.main, ["--model=/dev/null/x"], 2),
        (predict.main, ["x.jpg", "--model=/dev/null/x"], 2),
    ],
    ids=lambda x: x if isinstance(x, int) else str(getattr(x, "__module__", x)),
)
def test_what_cannot_be_read_or_written_is_2_and_no_traceback(
    main, arguments, code, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    try:
        got = main(arguments) if main is data.main else main()
    except SystemExit as end:
        got = end.code
    assert got == code
    assert "error: " in capsys.readouterr().err


def test_the_table_has_all_codes():
    table = DOCS.read_text().partition("## Exit codes")[2].partition("\n## ")[0]
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.M)}
    assert codes == {*ENDS.values()}
    for name in (
        "camvid",
        "sweep",
        "segblocks_jax.data",
        "street_scenes",
        "report",
        "records",
        "predict",
    ):
        assert name in table
