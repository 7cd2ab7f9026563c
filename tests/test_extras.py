"""Base dependencies alone: what runs, and what is said where an extra is needed. In one process, for time."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT

from segblocks_jax.errors import MissingPackageError, extra

EXTRAS = (
    "array_record",
    "av",
    "cv2",
    "flatbuffers",
    "grain",
    "matplotlib",
    "ml_collections",
    "PIL",
    "tensorboardX",
    "tensorflow_datasets",
    "torch",
    "wandb",
)
COMMANDS = {
    "experiments.camvid": "train",
    "experiments.cityscapes": "train",
    "experiments.custom": "train",
    "experiments.mapillary": "train",
    "experiments.sweep": "train",
    "analysis.report": "report",
    "data": "train",
    "data.street_scenes": "images",
    "predict": "images",
}
SCRIPT = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({EXTRAS}))

import segblocks_jax as sb
assert not {{"flax", "jax", "numpy"}} & set(sys.modules), "imported before it is used"
assert set(sb.__all__) <= set(dir(sb))
for name in sb.__all__:
    getattr(sb, name)

from absl import flags
for script in ("engine", "serving"):
    flags.FLAGS.remove_flag_values(list(flags.FLAGS))
    runpy.run_path(f"{ROOT}/benchmarks/{{script}}.py", run_name="imported")
print("public names and benchmarks: imported")

for command in {tuple(COMMANDS)}:
    try:
        runpy.run_module(f"segblocks_jax.{{command}}", run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        print(f"{{command}}: exit {{stop.code}}")
"""


@pytest.fixture(scope="module")
def base_only():
    """What a process without extras prints."""
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran


def test_public_names_and_the_benchmarks_of_a_bare_machine_need_no_extra(base_only):
    assert base_only.stdout.startswith("public names and benchmarks: imported")


def test_commands_name_the_extra_in_one_line_and_exit_with_2(base_only):
    assert base_only.stdout.splitlines()[1:] == [f"{command}: exit 2" for command in COMMANDS]
    errors = base_only.stderr.splitlines()
    for error, name in zip(errors, COMMANDS.values(), strict=True):
        assert re.fullmatch(
            rf"error: .* needs [\w.]+; pip install 'segblocks-jax\[{name}\]'", error
        )


def test_modules_say_so_by_an_exception():
    with (
        pytest.raises(MissingPackageError, match=r"it needs nothing_like_it; .*'.*\[train\]'"),
        extra("train", "it"),
    ):
        import nothing_like_it  # noqa: F401
