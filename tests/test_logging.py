"""What a run leaves to read, read back."""

import io
import json
import math
import pathlib
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
import rich.console
from events import read_events
from PIL import Image

from segblocks_jax import progress as bars
from segblocks_jax.training import logging


def test_scalars_reach_both_files(tmp_path):
    with logging.RunLog(tmp_path / "run") as log:
        log.scalars(1, {"train/loss": jnp.float32(0.5), "miou": np.float64(0.25)})
        lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        assert json.loads(lines[0])["values"] == {"train/loss": 0.5, "miou": 0.25}
        log.scalars(2, {"train/loss": jnp.full((1,), 2), "iou/absent": math.nan, "norm": math.inf})
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert (first["step"], second["step"]) == (1, 2)
    assert second["values"] == {"train/loss": 2.0, "iou/absent": None, "norm": None}
    assert second["time"] >= first["time"] > 1.6e9
    expected = [("train/loss", 1, 0.5), ("miou", 1, 0.25), ("train/loss", 2, 2.0)]
    events = read_events(tmp_path / "run")
    assert [(v.tag, e.step, v.simple_value) for e in events for v in e.summary.value] == expected


def test_pictures_reach_tensorboard(tmp_path, rng):
    picture = rng.integers(0, 256, (6, 9, 3)).astype(np.uint8)
    with logging.RunLog(tmp_path) as log:
        log.pictures(3, {"eval/street": picture})
    (event,) = (e for e in read_events(tmp_path) if e.summary.value)
    (value,) = event.summary.value
    assert (event.step, value.tag) == (3, "eval/street")
    with Image.open(io.BytesIO(value.image.encoded_image_string)) as written:
        np.testing.assert_array_equal(written, picture)


class FakeRun:
    """What wandb.init gives."""

    def __init__(self, **options: object) -> None:
        self.options, self.logged, self.finished = options, [], False

    def log(self, values: dict, step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished = True


def test_wandb_gets_everything_and_a_restart_continues_its_run(tmp_path, monkeypatch):
    runs = []

    def init(**options: object) -> FakeRun:
        runs.append(FakeRun(**options))
        return runs[-1]

    fake = types.SimpleNamespace(init=init, Image=lambda picture: ("image", picture.shape))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for step in (1, 2):
        with logging.RunLog(tmp_path / "run", wandb="streets", config={"seed": 3}) as log:
            log.scalars(step, {"loss": 0.5, "iou": math.nan})
            log.pictures(step, {"eval/a": np.zeros((4, 5, 3), np.uint8)})
    first, second = runs
    assert first.logged == [(1, {"loss": 0.5}), (1, {"eval/a": ("image", (4, 5, 3))})]
    assert first.finished
    assert first.options["project"] == "streets"
    assert first.options["name"] == "run"
    assert first.options["config"] == {"seed": 3}
    assert first.options["id"] == second.options["id"]
    assert second.options["resume"] == "allow"


def test_missing_wandb_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'segblocks-jax\[wandb\]'"):
        logging.RunLog(tmp_path, wandb="streets")
    assert not list(tmp_path.iterdir())
    logging.RunLog(tmp_path).close()  # Without it, nothing is imported.


def test_a_restarted_run_appends(tmp_path):
    for step in (1, 2):
        with logging.RunLog(tmp_path) as log:
            log.scalars(step, {"loss": step})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def logged(folder):
    """Steps with what was logged at them."""
    return [(line["step"], *line["values"].items()) for line in logging.read_log(folder)]


def test_a_killed_run_that_goes_on_has_no_lost_steps(tmp_path):
    with logging.RunLog(tmp_path, step=0) as log:
        for step in (10, 20, 30, 40):
            log.scalars(step, {"loss": 0.1})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 50, "ti')
    with logging.RunLog(tmp_path, step=20) as log:
        # Where it logs less often, its next line doesn't show which steps were lost.
        assert logged(tmp_path) == [(10, ("loss", 0.1)), (20, ("loss", 0.1))]
        log.scalars(60, {"loss": 0.2})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [10, 20, 60]
    starts = [e.step for e in read_events(tmp_path) if e.HasField("session_log")]
    assert starts[-1] == 21  # TensorBoard hides what it has of later steps.


def test_the_line_behind_a_cut_one_can_be_read(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "values": {"a": 1}}\n{"step": 2, "va')
    with logging.RunLog(tmp_path) as log:
        log.scalars(3, {"a": 3})
    assert logged(tmp_path) == [(1, ("a", 1)), (3, ("a", 3.0))]


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "\n\n",
        "version https://git-lfs.github.com/spec/v1\noid 1\n",
        "[]\n",
        '{"step": 1}\n',
        "\0\n",
    ],
)
def test_broken_lines_alone_are_passed_over(tmp_path, damage):
    assert logging.read_log(tmp_path / "nowhere") == []
    (tmp_path / "metrics.jsonl").write_text(damage)
    with logging.RunLog(tmp_path) as log:
        log.scalars(3, {"a": 3})
    assert logged(tmp_path) == [(3, ("a", 3.0))]


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ("10t 20t 20e 30t", "10t 20t 20e 30t"),
        ("10t 20t 20e 30t 40t 30t 40t", "10t 20t 20e 30t 40t"),
        ("10t 20t 20t 30t", "10t 20t 30t"),  # Killed at 20, its checkpoint before.
        ("10t 20t 20e 20t 20e", "10t 20t 20e"),
        ("10t 20t 20e 20e", "10t 20t 20e"),  # Evaluated again.
        ("10t 20t 30t 5t", "5t"),
    ],
)
def test_logs_that_do_not_say_where_a_run_was_resumed(tmp_path, lines, kept):
    entries = [{"step": int(x[:-1]), "values": {x[-1]: i}} for i, x in enumerate(lines.split())]
    text = "\n".join(map(json.dumps, entries))
    (tmp_path / "metrics.jsonl").write_text(text)
    found = logging.read_log(tmp_path)
    assert " ".join(f"{e['step']}{next(iter(e['values']))}" for e in found) == kept
    numbers = [next(iter(e["values"].values())) for e in found]
    assert numbers == sorted(numbers)
    assert numbers[-1] == len(entries) - 1


def test_an_array_is_no_scalar(tmp_path):
    with (
        logging.RunLog(tmp_path) as log,
        pytest.raises(ValueError, match=r"'iou' has shape \(3,\), expected a single number"),
    ):
        log.scalars(1, {"iou": np.ones(3)})
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_write_json_turns_arrays_and_nan_into_json(tmp_path):
    path = tmp_path / "results" / "a.json"
    value = {
        "nan": math.nan,
        "array": np.asarray([1.0, np.inf]),
        "jax": jnp.int32(3),
        "nested": [{"x": (1, np.float32("nan"))}],
        "folder": tmp_path,
        5: True,
    }
    logging.write_json(path, value)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(path.read_text(), parse_constant=refuse) == {
        "nan": None,
        "array": [1.0, None],
        "jax": 3,
        "nested": [{"x": [1, None]}],
        "folder": str(tmp_path),
        "5": True,
    }
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    logging.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        logging.write_json(path, {"a": object()})

    def fail(*_: object) -> None:
        raise OSError("disk gone")

    monkeypatch.setattr(pathlib.Path, "replace", fail)
    with pytest.raises(OSError, match="disk gone"):
        logging.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


class Clock:
    """Seconds that pass only when told to."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(bars, "time", clock)
    return clock


def test_progress_without_a_terminal_is_a_line_every_ten_seconds(clock):
    stream = io.StringIO()
    plain = rich.console.Console(file=stream, force_terminal=False)
    with bars.Progress("train", 1000, images_per_step=8, first_step=900, console=plain) as progress:
        clock.now += 60  # The first step compiles, which must not count as speed.
        for step in range(901, 946):
            progress.update(step, f"loss 0.{step}")
            clock.now += 0.5
    # Updates come at 60.0, 60.5, ... s; lines at the first one, and at 10 s and 20 s after it.
    assert stream.getvalue().splitlines() == [
        "train: 901/1000, 0.0 images/s, ? left, loss 0.901",
        "train: 921/1000, 16.0 images/s, 0:00:40 left, loss 0.921",
        "train: 941/1000, 16.0 images/s, 0:00:30 left, loss 0.941",
        "train: 945/1000, 15.6 images/s, 0:00:28 left",
    ]


def test_progress_on_a_terminal_is_a_bar():
    stream = io.StringIO()
    terminal = rich.console.Console(file=stream, force_terminal=True, width=120)
    with bars.Progress("evaluate", 2, images_per_step=4, console=terminal) as progress:
        progress.update(1, "miou [bold]0.5")
        progress.update(2, "miou [bold]0.6")
    text = stream.getvalue()
    assert "\r" in text
    assert "2/2" in text
    assert "miou [bold]0.6" in text
    assert "images/s" in text


def test_the_share_of_waiting_is_that_of_the_time_since_the_last(clock):
    waiting = bars.WaitShare()
    for wait, work in ((1, 3), (2, 2)):
        with waiting:
            clock.now += wait
        clock.now += work
    assert waiting.share() == 3 / 8
    clock.now += 5
    assert waiting.share() == 0
    with waiting:
        clock.now += 7
    waiting.restart()
    clock.now += 1
    assert waiting.share() == 0
    assert waiting.share() == 0  # No time has passed.


def test_finite_metrics_pass():
    logging.check_finite({"loss": jnp.float32(1), "grad_norm": 3}, 4)


def test_non_finite_metrics_stop_the_run_and_are_all_named(tmp_path):
    values = {"loss": jnp.float32(jnp.nan), "ok": 1.0, "grad_norm": np.inf}
    with pytest.raises(logging.NonFiniteError) as caught:
        logging.check_finite(values, 40, tmp_path / "checkpoints")
    text = str(caught.value)
    assert isinstance(caught.value, FloatingPointError)
    assert "step 40: loss = nan, grad_norm = inf" in text
    assert "ok" not in text
    assert str(tmp_path / "checkpoints") in text
    assert "lower learning rate" in text


def test_progress_never_passes_its_end():
    stream = io.StringIO()
    plain = rich.console.Console(file=stream, force_terminal=False)
    with bars.Progress("predict", 2, images_per_step=1, console=plain) as progress:
        progress.update(1, total=3)
        progress.update(5)
    assert "predict: 5/5" in stream.getvalue()
    assert "-" not in stream.getvalue()
