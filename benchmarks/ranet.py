"""Early exits of RANet beside all exits: images/s at three budgets, at batch 1 and 64, interleaved in one run.

    python benchmarks/ranet.py --output=benchmarks/results/ranet_cpu.json [--model=ranet_cifar_lg] [--folder=EXPORT]

Without a saved model, weights are random and thresholds are fitted on the timed images.
"""

import argparse
import json
import pathlib

import numpy as np

import segblocks_jax as sb
from segblocks_jax.systems.ranet import speed
from segblocks_jax.systems.ranet.engine import Engine
from segblocks_jax.systems.ranet.spec import ModelSpec


def main() -> None:
    """Prints a table, and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ranet_cifar_even")
    parser.add_argument("--folder", help="of a saved model, whose weights and thresholds are timed")
    parser.add_argument("--batches", default="1,64")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--execution")
    parser.add_argument(
        "--soak", type=int, default=0, help="images that are served to see compilations"
    )
    parser.add_argument("--output", type=pathlib.Path)
    given = parser.parse_args()
    if given.folder:
        net, spec = sb.load_model(given.folder), sb.load_spec(given.folder)
    else:
        imagenet = "imagenet" in given.model
        size, classes = ((224, 224), 1000) if imagenet else ((32, 32), 10)
        net = sb.create_model(given.model, classes)
        mean, std = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
        spec = ModelSpec(given.model, classes, mean=mean, std=std, crop=size)
    report = speed.measure(
        net,
        spec,
        images=speed.random_images(given.images, spec.crop),
        batches=[int(n) for n in given.batches.split(",")],
        rounds=given.rounds,
        execution=given.execution,
    )
    print(speed.format_report(report))
    if given.soak:
        report["soak"] = soak(net, spec, given.soak, given.execution)
        print(report["soak"])
    if given.output:
        given.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def soak(net, spec, count: int, execution: str | None) -> dict[str, int]:
    """Serves so many images of random difficulty in batches of random size; counts compilations after warm-up."""
    rng = np.random.default_rng(0)
    images = speed.random_images(256, spec.crop)
    spec = speed.with_fits(net, spec, images, speed.QS)
    engine = Engine(net, spec, max_count=16, bucket_step=0.25, execution=execution)
    engine.warm_up()
    before, served, exits = engine.compilations, 0, np.zeros(len(engine.settings.macs), int)
    while served < count:
        some = images[rng.integers(0, len(images), rng.integers(1, 33))]
        answers = engine(some, mode=f"q={speed.QS[rng.integers(len(speed.QS))]:g}")
        exits += np.bincount(answers.exits, minlength=len(exits))
        served += len(some)
    return {
        "images": served,
        "programs": before,
        "compilations_after_warm_up": engine.compilations - before,
        "images_by_exit": exits.tolist(),
    }


if __name__ == "__main__":
    main()
