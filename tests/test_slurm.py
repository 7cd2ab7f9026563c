"""The batch script asks Slurm for another turn when, and only when, its time is up before the training is done."""

import os
import pathlib
import signal
import subprocess
import time

import pytest

SCRIPT = pathlib.Path(__file__).resolve().parent.parent / "experiments" / "slurm" / "train.sh"

# As a training: on TERM it takes a moment to save, then ends with its code.
TRAINING = """
trap 'echo TERM >> "$LOG"; sleep 0.2; exit {code}' TERM
echo started "$1" >> "$LOG"
for i in $(seq {naps}); do sleep 0.1; done
exit {code}
"""


def program(folder, name, text):
    path = folder / name
    path.write_text("#!/bin/bash\n" + text)
    path.chmod(0o755)


def submit(tmp_path, code, sent=None):
    """Runs the script with a fake Slurm; its exit code and what happened."""
    log = tmp_path / "log"
    program(tmp_path, "srun", 'exec "$@"\n')
    program(tmp_path, "scontrol", 'echo scontrol "$@" >> "$LOG"\n')
    program(tmp_path, "train", TRAINING.format(code=code, naps=100 if sent else 0))
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "42",
        "LOG": str(log),
    }
    job = subprocess.Popen([SCRIPT, "train", "with two words"], env=os.environ | environment)
    end = time.monotonic() + 30
    while sent and not (log.exists() and "started" in log.read_text()):
        assert time.monotonic() < end
        time.sleep(0.01)
    if sent:
        job.send_signal(sent)
    return job.wait(30), log.read_text().splitlines()


@pytest.mark.parametrize(
    ("code", "sent", "happened"),
    [
        (143, signal.SIGUSR1, ["TERM", "scontrol requeue 42"]),  # Time is up.
        (0, signal.SIGUSR1, ["TERM"]),  # It was ending anyway.
        (2, signal.SIGUSR1, ["TERM"]),  # It failed while it saved.
        (143, signal.SIGTERM, ["TERM"]),  # Canceled.
        (0, None, []),
        (2, None, []),
        (143, None, []),  # Stopped by someone else.
    ],
)
def test_a_job_is_requeued_only_when_its_time_is_up(code, sent, happened, tmp_path):
    status, lines = submit(tmp_path, code, sent)
    assert status == code
    assert lines == ["started with two words", *happened]


def test_slurm_signals_the_script_alone_and_in_time():
    text = SCRIPT.read_text()
    assert "#SBATCH --signal=B:USR1@300\n" in text
    assert "#SBATCH --requeue\n" in text
    assert os.access(SCRIPT, os.X_OK)
