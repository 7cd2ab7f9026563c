"""Machine code of the convolution by products of warp groups: registers, spills, instructions of a stage.

    python benchmarks/cuda_machine_code.py --output=benchmarks/results/cuda_machine_code.json

Needs nvcc, cuobjdump and CUTLASS's headers ($SEGBLOCKS_CUTLASS_DIR), but no GPU. A stage is the innermost loop with
tensor-core instructions (HGMMA); inner loops without such count once.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from absl import app, flags

_SOURCE = flags.DEFINE_string("source", "xla_ffi/cuda/indexed_conv_groups.cu", "File of kernels.")
_ARCHITECTURE = flags.DEFINE_string("architecture", "90a", "What it is compiled for.")
_CUOBJDUMP = flags.DEFINE_string("cuobjdump", "cuobjdump", "The CUDA toolkit's program.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file.")

ROOT = pathlib.Path(__file__).resolve().parent.parent
PRODUCT = re.compile(r"\b(HGMMA|HMMA)\b")


def compiled(folder: str) -> tuple[str, str]:
    """What the assembler says of the kernels, and their machine code as text."""
    object_file = str(pathlib.Path(folder) / "kernels.cubin")
    code = f"-gencode=arch=compute_{_ARCHITECTURE.value},code=sm_{_ARCHITECTURE.value}"
    include = [f"-I{ROOT / 'xla_ffi'}", f"-I{ROOT / 'xla_ffi/include'}"]
    include.append(f"-isystem={os.environ['SEGBLOCKS_CUTLASS_DIR']}")
    command = ["nvcc", "-cubin", "-std=c++17", "-O3", "-Xptxas=-v", code, *include]
    command += ["-o", object_file, str(ROOT / _SOURCE.value)]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    dump = [_CUOBJDUMP.value, "-sass", object_file]
    text = subprocess.run(dump, check=True, capture_output=True, text=True).stdout
    return said.stdout + said.stderr, text


def loops(code: str) -> Iterator[tuple[int, int]]:
    """Instructions and tensor-core instructions of each loop."""
    found = re.findall(r"/\*([0-9a-f]{4,})\*/\s+([^;]*?);", code)
    places = {int(place, 16): i for i, (place, _) in enumerate(found)}
    for i, (_, text) in enumerate(found):
        if match := re.search(r"BRA\S* .*?0x([0-9a-f]+)", text):
            first = places.get(int(match[1], 16), i + 1)
            if first <= i:
                body = [text for _, text in found[first : i + 1]]
                yield len(body), sum(bool(PRODUCT.search(text)) for text in body)


def kernels(said: str, text: str) -> Iterator[dict]:
    """One entry a kernel."""
    for part in re.split(r"\n\s*Function : ", text)[1:]:
        name = part.split("\n", 1)[0].strip()
        _, _, told = said.partition(f"Compiling entry function '{name}'")
        registers = re.findall(r"Used (\d+) registers", told)[0]
        spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", told)[0]
        with_products = [loop for loop in loops(part) if loop[1]]
        instructions, products = min(with_products, default=(0, 0))
        yield {
            "kernel": re.sub(r"^.*?_cu_\w{8}\d+", "", name),
            "registers": int(registers),
            "spilled_bytes": sum(map(int, spills)),
            "stage_instructions": instructions,
            "stage_products": products,
            "serialized": bool(re.search(rf"serialized[^\n]*'{re.escape(name)}'", said)),
        }


def main(argv: list[str]) -> None:
    """Prints and writes."""
    del argv
    with tempfile.TemporaryDirectory() as folder:
        rows = list(kernels(*compiled(folder)))
    for row in rows:
        print(row)
    if _OUTPUT.value:
        report = {"architecture": f"sm_{_ARCHITECTURE.value}", "kernels": rows}
        pathlib.Path(_OUTPUT.value).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(app.run(main))
