"""Throughput of the input pipeline at the Cityscapes recipe, beside a plain Pillow and NumPy version.

    python benchmarks/data_pipeline.py --data_dir=FOLDER --output=benchmarks/results/data_pipeline_cpu.json

FOLDER holds Cityscapes (a few frames do: the same ones are read over and over, so that files come from
memory). Measured in one run, in turn:

- `stages_ms`: the time of every step of one example, one after the other in one thread;
- `one_thread`: whole examples a second, ours and the plain version's, on the same items and draws;
- `pipeline`: images/s of batches on Grain, ours and the plain version's, by number of worker
  processes (0: four threads), after the first batches.

The plain version is what one writes first: decode by Pillow, crop, resize, ImageEnhance, hue by Pillow's HSV,
flip by NumPy. `plain_normalized` normalizes by NumPy too; ours leaves that to the device.
"""

import dataclasses
import functools
import io
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import cv2
import grain
import jax
import numpy as np
from absl import app, flags
from PIL import Image, ImageEnhance

from segblocks_jax.data import DATASETS, NORMALIZATION, open_dataset
from segblocks_jax.data.folders import find_splits
from segblocks_jax.data.images import decode_checked
from segblocks_jax.data.pipeline import TrainBatches, train_batches
from segblocks_jax.data.store import Store
from segblocks_jax.tasks.segmentation import augmentation as steps
from segblocks_jax.tasks.segmentation.augmentation import Augmentation
from segblocks_jax.tasks.segmentation.labels import CITYSCAPES, IGNORE
from segblocks_jax.training.logging import commit, write_json

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of Cityscapes.", required=True)
_SPLIT = flags.DEFINE_string("split", "train", "Its split.")
_CROP = flags.DEFINE_integer("crop", 1024, "Side of a crop.")
_BATCH = flags.DEFINE_integer("batch_size", 8, "Images per batch.")
_WORKERS = flags.DEFINE_list("workers", ["1", "2"], "Numbers of worker processes.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Times that every measurement is taken, in turn.")
_BATCHES = flags.DEFINE_integer("batches", 4, "Timed batches a round.")
_EXAMPLES = flags.DEFINE_integer("examples", 24, "Timed examples a round.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file; printed in any case.")


@dataclasses.dataclass(frozen=True)
class Plain:
    """The plain version: bytes of an image and of its label to a normalized crop."""

    augmentation: Augmentation
    normalize: bool

    def __call__(self, image: bytes, label: bytes, rng: np.random.Generator) -> tuple:
        """One example; draws what `Augmentation` draws, in the same order."""
        augmentation, normalization = self.augmentation, NORMALIZATION["cityscapes"]
        picture = Image.open(io.BytesIO(image)).convert("RGB")
        target = Image.fromarray(CITYSCAPES.to_train[np.array(Image.open(io.BytesIO(label)))])
        left, top, right, bottom = augmentation._region((picture.height, picture.width), rng)
        cut = []
        for whole, fill in ((picture, normalization.fill), (target, IGNORE)):
            canvas = Image.new(whole.mode, (right - left, bottom - top), fill)
            canvas.paste(whole, (-left, -top))
            cut.append(canvas)
        size = augmentation.crop[::-1]
        picture = cut[0].resize(size, Image.Resampling.BICUBIC)
        target = cut[1].resize(size, Image.Resampling.NEAREST)
        kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color, None)
        for i in rng.permutation(4):
            if kinds[i] is None:
                turn = rng.uniform(-augmentation.hue, augmentation.hue)
                hue, saturation, value = picture.convert("HSV").split()
                hue = hue.point([(h + round(256 * turn)) % 256 for h in range(256)])
                picture = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
            else:
                strength = augmentation.brightness
                picture = kinds[i](picture).enhance(1 + rng.uniform(-strength, strength))
        pixels, ids = np.asarray(picture), np.asarray(target)
        if rng.random() < augmentation.flip:
            pixels, ids = pixels[:, ::-1], ids[:, ::-1]
        if self.normalize:
            pixels = numpy_normalize(pixels)
        return pixels, ids


def numpy_normalize(pixels: np.ndarray) -> np.ndarray:
    """What `segblocks_jax.data.normalize` does on the device."""
    mean, std = (np.array(v, np.float32) for v in NORMALIZATION["cityscapes"])
    return (pixels.astype(np.float32) / 255 - mean) / std


def ours(augmentation: Augmentation, image: bytes, label: bytes, rng: np.random.Generator) -> tuple:
    """One example of the pipeline."""
    pixels = decode_checked(image, "image", "image")
    ids = cv2.LUT(decode_checked(label, "ids", "label"), CITYSCAPES.to_train)
    return augmentation(pixels, ids, rng, NORMALIZATION["cityscapes"].fill)


def stages(augmentation: Augmentation, files: list[tuple[bytes, bytes]]) -> dict[str, float]:
    """Mean milliseconds of every step of our example, one after the other on the same draws."""
    taken: dict[str, list[float]] = {}

    def timed(name: str, function: Callable, *arguments: Any) -> Any:
        began = time.perf_counter()
        result = function(*arguments)
        taken.setdefault(name, []).append(time.perf_counter() - began)
        return result

    fill, crop = NORMALIZATION["cityscapes"].fill, augmentation.crop
    for number in range(_EXAMPLES.value):
        rng = np.random.default_rng(number)
        image, label = files[number % len(files)]
        pixels = timed("decode image", decode_checked, image, "image", "")
        ids = timed("decode label", decode_checked, label, "ids", "")
        ids = timed("map ids", cv2.LUT, ids, CITYSCAPES.to_train)
        region = augmentation._region(pixels.shape[:2], rng)
        scale, method = steps._scale_crop, Image.Resampling
        pixels = timed("crop and resize", scale, pixels, region, crop, fill, method.BICUBIC)
        ids = timed("crop and resize label", scale, ids, region, crop, IGNORE, method.NEAREST)
        pixels = timed("jitter", augmentation._jitter, pixels, rng)
        timed("flip", lambda p, i: (cv2.flip(p, 1), cv2.flip(i, 1)), pixels, ids)
    return {name: 1e3 * statistics.mean(times) for name, times in taken.items()}


@dataclasses.dataclass(frozen=True)
class PlainExample:
    """The plain version of an item at a position of all epochs, for Grain."""

    plain: Plain
    files: list[tuple[bytes, bytes]]

    def __call__(self, position: int, index: int) -> dict:
        """Reads and augments."""
        rng = np.random.default_rng((position // len(self.files), index))
        image, label = self.plain(*self.files[index], rng)
        return {"image": image, "label": label}


def plain_batches(plain: Plain, files: list[tuple[bytes, bytes]], workers: int) -> TrainBatches:
    """Batches of the plain version, by the same machinery as ours."""
    order = grain.MapDataset.range(len(files)).seed(0).shuffle().repeat()
    items = order.map_with_index(PlainExample(plain, files))
    return TrainBatches(items.batch(_BATCH.value), workers, {})


def examples_per_second(function: Callable, files: list[tuple[bytes, bytes]], first: int) -> float:
    """Examples a second in this thread."""
    began = time.perf_counter()
    for number in range(first, first + _EXAMPLES.value):
        function(*files[number % len(files)], np.random.default_rng(number))
    return _EXAMPLES.value / (time.perf_counter() - began)


def batch_images_per_second(batches: TrainBatches) -> float:
    """Images a second, without what was made while the first batches were awaited."""
    for _ in range(2):
        next(batches)
    began = time.perf_counter()
    for _ in range(_BATCHES.value):
        next(batches)
    rate = _BATCHES.value * _BATCH.value / (time.perf_counter() - began)
    batches.close()
    return rate


def in_turn(runs: dict[str, Callable[[], float]]) -> dict[str, float]:
    """The median of every run, all taken in turn."""
    results: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(_ROUNDS.value):
        for name, run in runs.items():
            results[name].append(run())
    return {name: statistics.median(values) for name, values in results.items()}


def with_ratios(rates: dict[str, float]) -> dict[str, float]:
    """Images a second, and how many times the plain versions' ours are."""
    ratios = {f"ours_over_{n}": rates["ours"] / r for n, r in rates.items() if n != "ours"}
    return {name: round(value, 2) for name, value in (rates | ratios).items()}


def measure(prepared: str) -> dict[str, Any]:
    """Everything, in one run."""
    root = pathlib.Path(_DATA_DIR.value)
    pairs = find_splits(DATASETS["cityscapes"], Store(root))[_SPLIT.value].pairs
    files = [(pair.image.read(), pair.label.read()) for pair in pairs]
    source = open_dataset("cityscapes", root, _SPLIT.value, prepared)
    augmentation = Augmentation((_CROP.value, _CROP.value))
    plain = {
        "plain": Plain(augmentation, normalize=False),
        "plain_normalized": Plain(augmentation, normalize=True),
    }
    step_times = stages(augmentation, files)
    total = sum(step_times.values())
    examples = {"ours": functools.partial(ours, augmentation), **plain}
    report = {
        "stages_ms": {name: round(ms, 2) for name, ms in step_times.items()},
        "stages_share": {name: round(ms / total, 3) for name, ms in step_times.items()},
        "one_thread": with_ratios(
            in_turn(
                {
                    name: functools.partial(examples_per_second, function, files, 0)
                    for name, function in examples.items()
                }
            )
        ),
        "pipeline": {},
    }
    for workers in map(int, _WORKERS.value):

        def run(name: str, workers: int = workers) -> float:
            if name == "ours":
                batches = train_batches(source, augmentation, _BATCH.value, 0, workers=workers)
            else:
                batches = plain_batches(plain[name], files, workers)
            return batch_images_per_second(batches)

        rates = in_turn({name: functools.partial(run, name) for name in examples})
        report["pipeline"][f"workers_{workers}"] = with_ratios(rates)
        print(workers, report["pipeline"][f"workers_{workers}"], flush=True)
    return report


def main(argv: list[str]) -> None:
    """Measures, prints, writes."""
    del argv
    cv2.setNumThreads(1)  # "One thread" means it; worker processes keep OpenCV's default.
    with tempfile.TemporaryDirectory() as prepared:
        report = measure(prepared)
    report = {
        "images": "2048x1024 PNG",
        "crop": _CROP.value,
        "batch_size": _BATCH.value,
        "cores": os.cpu_count(),
        "processor": _processor(),
        "timer": f"host clock, median of {_ROUNDS.value} interleaved rounds",
        "versions": {m.__name__: m.__version__ for m in (cv2, grain, jax, np)}
        | {"PIL": Image.__version__},
        "commit": commit(),
        **report,
    }
    print(json.dumps(report, indent=2))
    if _OUTPUT.value:
        write_json(_OUTPUT.value, report)


def _processor() -> str:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    sys.exit(app.run(main))
