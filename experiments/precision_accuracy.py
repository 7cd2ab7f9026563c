"""Compares bfloat16 and int8 with float32 on the validation images, quantized on training images: docs/engine.md.

    python experiments/precision_accuracy.py --model=camvid_efflite1 --dataset=camvid --data_dir=FOLDER --images=16 \
        --output=experiments/results/precision_camvid_efflite1.json

The images to calibrate on, --images of them, come from all over the training set. The network runs
on whole images and in blocks, the best-scored share of every image's blocks high.
Hardware: two CPU cores. Time: `seconds` of each JSON.
"""

import argparse
import itertools
import pathlib
import time
from typing import Any

import numpy as np

import segblocks_jax as sb
from segblocks_jax.data import SegmentationSource, eval_batches, open_dataset
from segblocks_jax.tasks.segmentation.metrics import ConfusionTotal
from segblocks_jax.training.logging import write_json
from segblocks_jax.training.provenance import commit, device_name

SHARES = (1.0, 0.4)
DTYPES = ("float32", "bfloat16", "int8")


def calibration_images(source: SegmentationSource, count: int) -> list[np.ndarray]:
    """As many images, from all over a set."""
    chosen = np.linspace(0, len(source) - 1, min(count, len(source))).astype(int)
    return [np.asarray(source[int(i)]["image"]) for i in chosen]


def compare(engines: dict[str, sb.Engine], source: SegmentationSource) -> list[dict[str, Any]]:
    """A row for each share of high blocks: mIoU of each engine, and on how many pixels it agrees with the first."""
    first = next(iter(engines.values()))
    cases = list(itertools.product(SHARES, engines))
    total = {case: ConfusionTotal(first.spec.num_classes) for case in cases}
    same: dict[tuple[float, str], list[float]] = {case: [] for case in cases}
    for batch in eval_batches(source, 1, first.multiple, 1):
        valid = batch.label != 255
        for share in SHARES:
            labels = {k: e(batch.image, mode=f"share={share}").labels for k, e in engines.items()}
            expected = next(iter(labels.values()))
            for name, found in labels.items():
                total[share, name].update(batch.label, found)
                same[share, name].append(float((found == expected)[valid].mean()))
    return [
        {
            "share": share,
            **{f"miou_{name}": total[share, name].scores().mean_iou for name in engines},
            **{f"equal_labels_{name}": float(np.mean(same[share, name])) for name in engines},
        }
        for share in SHARES
    ]


def main() -> None:
    """Quantizes, compares, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder or name of the model")
    parser.add_argument("--dataset", required=True, help="that it was trained on")
    parser.add_argument("--data_dir", help="folder of the data set")
    parser.add_argument("--images", type=int, default=32, help="to calibrate on")
    parser.add_argument("--keep", default="", help="convolutions that stay in float32, by commas")
    parser.add_argument("--execution", help="of the engines; default: what an engine takes")
    parser.add_argument("--output", type=pathlib.Path, help="JSON file")
    arguments = parser.parse_args()
    start = time.perf_counter()
    model, spec = sb.load_model(arguments.model), sb.load_spec(arguments.model)
    train, val = (
        open_dataset(arguments.dataset, arguments.data_dir, split) for split in ("train", "val")
    )
    keep = tuple(filter(None, arguments.keep.split(",")))
    spec = sb.quantize(model, spec, calibration_images(train, arguments.images), keep=keep)
    engines = {k: sb.Engine(model, spec, dtype=k, execution=arguments.execution) for k in DTYPES}
    rows = compare(engines, val)
    report = {
        "model": arguments.model,
        "dataset": f"{arguments.dataset}/val",
        "images": len(val),
        "calibration_images": min(arguments.images, len(train)),
        "kept_in_float32": keep,
        "processor": {name: engine.describe().splitlines()[-1] for name, engine in engines.items()},
        "rows": rows,
        "device": device_name(),
        "commit": commit(),
        "seconds": time.perf_counter() - start,
    }
    for row in rows:
        print(row)
    if arguments.output is not None:
        write_json(arguments.output, report)


if __name__ == "__main__":
    main()
