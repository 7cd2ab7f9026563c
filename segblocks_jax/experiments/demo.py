"""The package in minutes: a model that ships on new street scenes, its policy trained on, a page of pictures.

python -m segblocks_jax.experiments.demo --output=runs/demo

Needs `pip install 'segblocks-jax[train,report]'`.
"""

import argparse
import dataclasses
import itertools
import pathlib
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, UInt8

from segblocks_jax.allocator import keep_freed_memory
from segblocks_jax.errors import InputError, UserError, extra
from segblocks_jax.paths import check_writable, current_file, expand, sha256

with extra("train", "the demo"):
    from segblocks_jax.data import SceneSet, open_dataset
    from segblocks_jax.experiments import defaults
    from segblocks_jax.training import loop
    from segblocks_jax.training.logging import read_log, write_json

with extra("report", "the demo"):
    from segblocks_jax.analysis.page import OperatingPoint, format_points, write_page
    from segblocks_jax.analysis.run_details import columns

from segblocks_jax.interop import load_model, load_spec
from segblocks_jax.interop.folder import WEIGHTS, model_folder
from segblocks_jax.systems.segblocks.calibration import calibrate
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.systems.segblocks.engine import Engine
from segblocks_jax.systems.segblocks.evaluation import Evaluation, Evaluator
from segblocks_jax.systems.segblocks.spec import ModelSpec
from segblocks_jax.systems.segblocks.system import SegBlocks
from segblocks_jax.tasks.segmentation.losses import block_mean, cross_entropy_map
from segblocks_jax.tasks.segmentation.metrics import ConfusionTotal
from segblocks_jax.training.provenance import commit, device_name

MODEL = "street_scenes_efflite1"
SIZE = (512, 1024)
SHARES = (0.6, 0.4, 0.2)
SHOWN = 4
"""Images on the page."""
Item = dict[str, Any]
"""Of a source: `image`, uint8 (h, w, 3), `label`, uint8 (h, w), and `name`."""


@dataclasses.dataclass
class Row:
    """A way to run the model: the name of the row, an engine and its mode, None without blocks."""

    name: str
    engine: Engine
    mode: str | None = None

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> Any:
        """The engine's result."""
        return self.engine(image[None], mode=self.mode)


def measure(rows: Sequence[Row], items: Sequence[Item], rounds: int = 3) -> list[OperatingPoint]:
    """Runs the rows on all items in turn, `rounds` times; times are medians over these, means over images."""
    with ThreadPoolExecutor() as pool:  # Compiles.
        list(pool.map(lambda row: row(items[0]["image"]), rows))
    seconds = np.zeros((rounds, len(rows), len(items)))
    shares = np.zeros((len(rows), len(items)))
    confusions = [ConfusionTotal(row.engine.spec.num_classes) for row in rows]
    for k, (i, item), (j, row) in itertools.product(
        range(rounds), enumerate(items), enumerate(rows)
    ):
        result = row(item["image"])
        seconds[k, j, i], shares[j, i] = result.seconds, result.share
        if k == 0:
            confusions[j].update(item["label"][None], result.labels)
    means = np.median(seconds, axis=0).mean(1)
    return [
        OperatingPoint(
            name=row.name,
            miou=confusion.scores().mean_iou,
            gmacs=row.engine.gmacs(SIZE, share),
            seconds=time,
            share=None if row.mode is None else share,
        )
        for row, confusion, share, time in zip(rows, confusions, shares.mean(1), means, strict=True)
    ]


def gain(engine: Engine, item: Item) -> Float[np.ndarray, "gh gw"]:
    """By how much every block's loss falls when all run high instead of low, in nats; of whole blocks."""
    image, label, side = item["image"][None], jnp.asarray(item["label"][None]), engine.multiple
    grid = (label.shape[1] // side, label.shape[2] // side)

    def loss(mode: str) -> jax.Array:
        logits = jnp.asarray(engine(image, mode=mode, output="logits").logits)
        return block_mean(*cross_entropy_map(logits, label), grid)[0][0]

    return np.asarray(loss("share=0") - loss("share=1"))


class Training(SegBlocks):
    """A training that goes on from a system, and is evaluated by an engine whose programs are there.

    It begins with the threshold of its own target, so that it needs fewer programs.
    """

    def __init__(self, config: ExperimentConfig, sources: Any, system: nnx.Dict, row: Row) -> None:
        """Evaluates as `row` runs."""
        super().__init__(config, sources=sources)
        self._start, self._row = system, row
        self._evaluate = Evaluator(row.engine, sources[1], config)

    def build(self) -> nnx.Dict:
        """A copy of the system that it goes on from."""
        modules, served = nnx.clone(self._start), self._row.engine.spec.policy
        assert served is not None
        policy = dataclasses.replace(self.config.policy, bucket_step=served.bucket_step)
        config = dataclasses.replace(self.config, policy=policy)
        calibrate(modules.policy, config, lambda: self.train_source)
        return modules

    def evaluate(self, modules: Any, **options: Any) -> Evaluation:
        """See `SegBlocks.evaluate`; leaves the weights in the engine."""
        self._row.engine.replace_weights(modules)
        return self._evaluate(modules, mode=self._row.mode, on_batch=options.get("on_batch"))


def training_config(spec: ModelSpec, target: float, steps: int) -> ExperimentConfig:
    """The policy of a saved model goes on learning, on small crops; its network stays as it is."""
    assert spec.policy is not None
    names = ("name", "width", "features", "dilations", "padding", "stride_in")
    fields = {
        "name": "demo",
        "data": {"dataset": "street_scenes", "crop": (128, 256), "scale": (0.7, 1.3)},
        "model": {name: getattr(spec, name) for name in names},
        "policy": {
            "name": spec.policy.name,
            "block_size": spec.policy.block_size,
            "features": spec.policy.features,
            "target": target,
            "bucket_step": 0.25,
        },
        "optim": {
            "batch_size": 8,
            "steps": steps,
            "learning_rate": 4e-4,
            "freeze_network": True,
        },
        "loop": {
            "eval_every": steps,
            "checkpoint_every": steps,
            "log_every": 5,
            "eval_batch_size": 1,
            "eval_pictures": 0,
        },
    }
    return ExperimentConfig.from_mapping(defaults.config(fields).to_dict())


def run(model: str, output: pathlib.Path, steps: int, target: float, scenes: int) -> pathlib.Path:
    """The demo; gives the page."""
    spec, system = load_spec(model), load_model(model)
    if spec.policy is None or spec.dataset != "street_scenes":
        raise InputError(f"--model={model}: no model with a policy for street scenes")
    folder = check_writable(output)
    # The seed differs from that of trainings, so no scene was seen in one.
    chosen = SceneSet(train=2 * scenes, val=scenes, height=SIZE[0], width=SIZE[1], seed=1)
    train, val = (
        open_dataset("street_scenes", folder / "data", split, scenes=chosen)
        for split in ("train", "val")
    )
    static = Engine(system["net"], dataclasses.replace(spec, policy=None), keep_memory=True)
    blocks = Engine(system, spec, mode=f"share={SHARES[1]}", keep_memory=True)
    ways = [
        Row("static", static),
        *(Row(f"SegBlocks, {x:.0%}", blocks, f"share={x}") for x in SHARES),
    ]
    items = [val[number] for number in range(scenes)]
    points = measure(ways, items)
    print(f"{model}, {scenes} new scenes of {SIZE[0]} x {SIZE[1]}\n{format_points(points)}")
    images = {}
    for number, item in enumerate(items[:SHOWN]):
        images[item["name"]] = columns(blocks, val, number, gain(blocks, item))
    print(f"\nThe policy goes on training, for a target of {target:.0%}: {steps} steps of 8 crops")
    trained = Row(f"SegBlocks, {target:.0%}, after {steps} more steps", blocks, f"share={target}")
    weights = sha256(current_file(model_folder(model), WEIGHTS))
    workdir = folder / f"training_{weights[:8]}_{target:g}_{steps}"
    config = training_config(spec, target, steps)
    loop.train(Training(config, (train, val), system, trained), workdir)
    points += measure([trained], items)
    print(format_points(points))
    rows = list(map(dataclasses.asdict, points))
    where = {"device": device_name(), "commit": commit(), "jax": jax.__version__}
    write_json(folder / "results.json", {"model": model, "scenes": scenes, "rows": rows, **where})
    return write_page(
        folder / "page",
        "SegBlocks on street scenes",
        points,
        images,
        table=val.table,
        log=read_log(workdir),
        text=f"{model}: mIoU over {scenes} scenes that no training has seen; time of one image, from host memory to"
        f" its labels in host memory, on {device_name()}, the median of 3 rounds in turn.",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and runs the demo."""
    keep_freed_memory()
    parser = argparse.ArgumentParser(prog="python -m segblocks_jax.experiments.demo")
    add = parser.add_argument
    add("--output", type=expand, default="runs/demo", help="folder of all results; %(default)s")
    add("--model", default=MODEL, help="a folder of a saved model, or a name; %(default)s")
    add("--steps", type=int, default=100, help="of the training; %(default)s")
    add("--target", type=float, default=0.2, help="of the training; %(default)s")
    add("--scenes", type=int, default=8, help="to evaluate on; %(default)s")
    given = parser.parse_args(argv)
    try:
        page = run(given.model, given.output, given.steps, given.target, given.scenes)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"\nPictures of what the model sees and where it computes: file://{page.resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
