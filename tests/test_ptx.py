"""The CUDA kernels without a GPU: what nvcc makes of them runs on the CPU, against the definitions.

Accesses are checked for bounds, alignment, races and double writes, barriers for threads that don't come
(ptx/emulator.h); results are poisoned before.
"""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from ptx import emulated
from ptx.build import ROOT, UnavailableError, build
from ptx.parse import UnknownInstruction
from ptx.translate import kernels_of, translate

# One case for each kernel, in the names of test_gpu.py.
CASES = (
    "test_split_and_combine[mixed-bfloat16]",
    "test_block_pad[1-odd channels-float32]",
    "test_indexed_conv[two_groups-bfloat16]",  # Channels by eight, two tiles of 64 columns.
    "test_indexed_conv[rgb_stem-bfloat16]",
    "test_indexed_conv_of_layers[shared terms-bfloat16]",
    "test_indexed_conv_of_layers[four channels-bfloat16]",
    "test_indexed_conv_of_layers[long lines-bfloat16]",
    "test_indexed_conv_of_layers[long lines of four channels-bfloat16]",
    "test_indexed_conv_of_layers[lines-bfloat16]",
    "test_indexed_conv_of_layers[units of 2 x 2-bfloat16]",
    "test_indexed_conv_of_layers[one tap-bfloat16]",
    "test_indexed_conv[two_groups-float32]",
    "test_indexed_conv[depthwise_prime-bfloat16]",
    "test_indexed_max_pool[3-2-64-bfloat16]",
    "test_indexed_upsample2[64-r2-bfloat16]",
    "test_a_convolution_lends_halos[lines of a tile-bfloat16]",
    "test_a_convolution_lends_halos[shared terms-bfloat16]",
    "test_a_convolution_lends_halos[no power of two-bfloat16]",
    "test_upsampling_lends_halos_and_pooling_takes_them[4-1-64-bfloat16]",
    "test_few_calls_of_a_frame_compute_halos",
    "test_mask_tables[bottleneck-0.6]",
    "test_mask_add[bfloat16-relu-True-0.6]",
    "test_tables_of_several_layers[0.5]",
    "test_label_map[4-19-bfloat16]",
    "test_label_map_of_16_bits[4-spread-bfloat16]",
    "test_label_map[2-19-float32]",
    "test_a_call_without_outputs_does_not_break_a_captured_graph",
)


@pytest.fixture(scope="module")
def handlers() -> pathlib.Path:
    """The module of emulated handlers, built where it is not up to date."""
    try:
        return build()
    except UnavailableError as error:
        if os.environ.get("SEGBLOCKS_REQUIRE_PTX"):
            pytest.fail(str(error))
        pytest.skip(str(error))


# In the list of kernels, those by products of warp groups.
GROUPS = r"kernels: .*convolve_groups_kernel\w*GroupTileILi{}E"
# Those that a GPU without warp groups runs by other kernels.
GROUP_CASES = tuple(case for case in CASES if re.match(r"test_indexed_conv.*bfloat16", case))


def run_gpu_tests(handlers: pathlib.Path, seed: int, *cases: str, capability: int = 90) -> str:
    """Runs tests of test_gpu.py on emulated kernels; all without any."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "ptx.emulated"]
    command += [f"tests/test_gpu.py::{case}" for case in cases] or ["tests/test_gpu.py"]
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {
        **{"PYTHONPATH": path, "SEGBLOCKS_PTX": str(handlers), "SEGBLOCKS_PTX_SEED": str(seed)},
        **{"SEGBLOCKS_PTX_CAPABILITY": str(capability), "SEGBLOCKS_REQUIRE_GPU": "1"},
        **{"SEGBLOCKS_REQUIRE_EXT": "1", "JAX_PLATFORMS": "cpu"},
    }
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-4000:]
    return done.stdout


def test_a_case_of_every_kernel(handlers: pathlib.Path) -> None:
    output = run_gpu_tests(handlers, 0, *CASES)
    assert f"{len(CASES)} passed" in output
    assert re.search(GROUPS.format(64), output)


def test_products_of_two_warp_groups(handlers: pathlib.Path) -> None:
    """Where tiles are more than the multiprocessors, of which there is one."""
    case = "test_indexed_conv_of_layers[units of 2 x 2-bfloat16]"
    assert re.search(GROUPS.format(128), run_gpu_tests(handlers, 1, case))


def test_convolutions_without_warp_groups(handlers: pathlib.Path) -> None:
    output = run_gpu_tests(handlers, 0, *GROUP_CASES, capability=80)
    assert f"{len(GROUP_CASES)} passed" in output
    assert re.search("kernels: .*convolve_kernel", output)
    assert "convolve_groups_kernel" not in output


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_case_of_every_kernel_in_other_orders(seed: int, handlers: pathlib.Path) -> None:
    """Other orders of threads, on many multiprocessors and on few."""
    assert f"{len(CASES)} passed" in run_gpu_tests(handlers, seed, *CASES)


@pytest.mark.slow
@pytest.mark.skipif("SEGBLOCKS_PTX_SEEDS" not in os.environ, reason="`make test-ptx` runs it")
def test_all_tests_of_gpus(handlers: pathlib.Path) -> None:
    """In as many orders of threads as SEGBLOCKS_PTX_SEEDS says."""
    for seed in range(int(os.environ["SEGBLOCKS_PTX_SEEDS"])):
        check_all(handlers, seed)


def check_all(handlers: pathlib.Path, seed: int) -> None:
    output = run_gpu_tests(handlers, seed)
    assert " passed" in output
    assert "skipped" not in output


FAULTS = {
    "no_barrier": "race",
    "no_barrier_in_warps": "race",
    "overwritten": "race",
    "no_wait": "race: .* copies to it",
    "no_barrier_behind_copies": "race",
    "copy_goes_on": "ends before its copies",
    "out_of_bounds": "out of bounds: 4 bytes",
    "out_of_shared_memory": "out of bounds of shared memory",
    "misaligned": "no multiple of 8",
    "written_twice": "written twice",
    "reads_results": "race: result",
    "operand_written": "operand in is written",
    "half_a_warp_waits": "reached by 16 of 32 lanes",
    "one_warp_waits": "deadlock",
    "cluster_without_barrier": "race",
    "cluster_ends": "race: a block ends|block that has ended",
    "beyond_the_cluster": "beyond the cluster",
    "product_overwritten": "race: .* multiplies it",
    "product_not_fenced": "no fence.proxy.async",
    "product_of_copies_not_fenced": "no fence.proxy.async",
    "product_fenced_behind_barrier": "no fence.proxy.async",
    "product_of_registers_not_fenced": "without wgmma.fence",
    "product_of_registers_written": "registers of a product are written",
    "product_without_barrier": "race|no fence.proxy.async",
    "product_of_few_warps": "warps of a group have begun different products",
    "product_not_waited_for": "ends before its products",
}


def run_fault(handlers: pathlib.Path, name: str, seed: int) -> np.ndarray:
    module = emulated.load(handlers)
    module.configure(seed=seed)
    values, result = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
    cluster = 1 + ("cluster" in name)
    threads = 128 if "product" in name else 64 // cluster
    module.run(name, values, result, threads, 4 * 60, cluster)
    return result


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_in_every_order(name: str, handlers: pathlib.Path) -> None:
    for seed in range(5):
        with pytest.raises(RuntimeError, match=FAULTS[name]):
            run_fault(handlers, name, seed)


RIGHT = ["right", "right_copy", "right_cluster"]
RIGHT += ["right_product", "right_product_of_shared", "right_product_of_copies"]


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_not_complained_about(name: str, handlers: pathlib.Path) -> None:
    for seed in range(5):
        np.testing.assert_array_equal(run_fault(handlers, name, seed), np.arange(64)[::-1])


def test_what_was_not_written_is_no_number(handlers: pathlib.Path) -> None:
    result = run_fault(handlers, "unwritten", 0)
    np.testing.assert_array_equal(np.isnan(result), np.arange(64) < 4)


def test_a_sum_that_is_read_before_the_wait_is_no_number(handlers: pathlib.Path) -> None:
    result = run_fault(handlers, "product_of_sums_read_early", 0)
    np.testing.assert_array_equal(np.isnan(result), np.arange(64) % 16 < 8)


def test_a_product_finds_its_factors_where_the_swizzle_puts_them(handlers: pathlib.Path) -> None:
    result = run_fault(handlers, "product_not_swizzled", 0)
    right = result == np.arange(64)[::-1]
    np.testing.assert_array_equal(right, np.arange(64) % 8 == 0)


def test_straight_code_counts_once_for_each_warp(handlers: pathlib.Path) -> None:
    module = emulated.load(handlers)
    module.reset()
    run_fault(handlers, "right", 0)
    (kernel,) = (
        kernel
        for kernel in kernels_of((handlers.parent / "faults" / "faults.ptx").read_text())
        if kernel.name == "right"
    )
    length = sum(len(piece.instructions) for piece in kernel.pieces)
    counts = module.counts()["test", "right"]
    assert (counts["launches"], counts["warps"]) == (1, 2)
    assert counts["warp_instructions"] == 2 * length


@pytest.mark.parametrize("instruction", ["wgmma.wrong.sync.aligned", "add.wrong.u32 %r1, %r1, 1"])
def test_an_unknown_instruction_is_an_error(instruction: str) -> None:
    text = f".entry k()\n{{\n.reg .b32 %r<2>;\n{instruction};\nret;\n}}\n"
    with pytest.raises(UnknownInstruction, match=instruction.split()[0]):
        translate(text)
