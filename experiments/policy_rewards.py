"""Compares ways to train a policy on a trained network that stays as it is: docs/policies.md.

    python experiments/policy_rewards.py --model=WORKDIR/export --data_dir=FOLDER [--dataset=camvid] \
        [--results=policy_rewards] [--runs=runs/policy_rewards] [--variants=supervised,gain] [--features=64]
    python experiments/policy_rewards.py --table [--results=policy_rewards]
    python experiments/policy_rewards.py --model=WORKDIR/export --data_dir=FOLDER --variants=gain --export=DIR

The losses of every block, with all blocks high and with all low, are computed once; a new policy then learns from
them alone, a block's loss being that of its own resolution whatever its neighbors have. So a policy costs seconds,
and only what it learns from differs. The evaluation runs the network: the best-scored 40% of every image's blocks
high, in every variant.

Writes `experiments/results/RESULTS/VARIANT_SEED.json`; a run whose file exists is skipped. With --export, the model
with a policy of the variant, of seed 0, is saved instead, its threshold calibrated on the training images.
Hardware: two CPU cores. Time: `seconds` of each JSON.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

import segblocks_jax as sb
from segblocks_jax.adaptive.decision import top_fraction
from segblocks_jax.adaptive.estimators import entropy, regret_loss, surrogate_loss
from segblocks_jax.data import SegmentationSource, eval_batches, normalize, open_dataset
from segblocks_jax.paths import sha256
from segblocks_jax.systems.segblocks.calibration import calibrate
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.systems.segblocks.policies import Reward, advantage
from segblocks_jax.systems.segblocks.resolution_gain import uniform_block_loss
from segblocks_jax.tasks.segmentation.metrics import ConfusionTotal
from segblocks_jax.training.logging import write_json
from segblocks_jax.training.provenance import commit, device_name

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
TARGET, BATCH, STEPS, RATE = 0.4, 8, 200, 4e-4
# Fields of the reward, and the weight of the entropy.
LEARNED: dict[str, tuple[dict, float]] = {
    "authors": ({}, 0.0),
    "normalized": ({"advantage": "normalized"}, 0.0),
    "image_entropy": ({"baseline": "image"}, 0.3),
    "gain": ({"kind": "gain"}, 0.0),
    "supervised": ({}, 0.0),
    "regression": ({}, 0.0),
}
REFERENCES = ("random", "heuristic", "oracle")
COLUMNS = ("miou", "mean_loss", "share_wanted", "share_spread", "entropy")


@dataclasses.dataclass(frozen=True)
class Split:
    """Images (n, h, w, 3), labels (n, h, w), and block losses (n, gh, gw) with all high and all low."""

    image: np.ndarray
    label: np.ndarray
    high: np.ndarray
    low: np.ndarray
    valid: np.ndarray


def measure(system: nnx.Dict, source: SegmentationSource, config: ExperimentConfig) -> Split:
    """All images of a split, in whole blocks, with their block losses in evaluation mode."""
    system = nnx.clone(system)
    system.eval()
    graphdef, state = nnx.split(system)

    @functools.partial(jax.jit, static_argnames="high")
    def losses(state: nnx.State, image: Array, label: Array, high: bool) -> Array:
        image = normalize(image, *source.normalization)
        return uniform_block_loss(nnx.merge(graphdef, state), image, label, config, high=high)

    parts = []
    side = config.policy.block_size
    for batch in eval_batches(source, BATCH, side, 1):
        image, label, count = jnp.asarray(batch.image), jnp.asarray(batch.label), batch.count
        n, h, w = batch.label.shape
        valid = (batch.label != 255).reshape(n, h // side, side, w // side, side).any((2, 4))
        both = [np.asarray(losses(state, image, label, high)) for high in (True, False)]
        parts.append([x[:count] for x in (batch.image, batch.label, *both, valid)])
    return Split(*map(np.concatenate, zip(*parts, strict=True)))


def policy_loss(
    variant: str, logits: Array, mask: Array, high: Array, low: Array, valid: Array
) -> Array:
    """What a variant descends, without entropy."""
    gain = low - high
    if variant == "supervised":
        return regret_loss(logits, gain, valid, TARGET)
    if variant == "regression":  # Of the gain in standard deviations of the batch.
        known = jnp.where(valid, gain, jnp.nan)
        wanted = (gain - jnp.nanmean(known)) / jnp.maximum(jnp.nanstd(known), 1e-6)
        return jnp.where(valid, jnp.square(logits - wanted), 0.0).mean()
    reward = Reward(TARGET, **LEARNED[variant][0])
    executed = jnp.where(mask, high, low)
    return surrogate_loss(
        logits, mask, advantage(executed, valid, mask, reward, low_loss=low).total
    )


def learn(variant: str, seed: int, split: Split, spec: sb.ModelSpec) -> tuple[nnx.Module, float]:
    """A policy trained from scratch on a split's block losses, and its last entropy."""
    normalization = (spec.mean, spec.std)
    assert spec.policy is not None
    features = spec.policy.features
    policy = new_policy("reinforce", spec, features=features, rngs=nnx.Rngs(seed))
    graphdef, params, stats = nnx.split(policy, nnx.Param, ...)
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, STEPS), b1=0.5)

    @jax.jit
    def step(params, stats, opt_state, key, image, high, low, valid):
        def loss(params):
            policy = nnx.merge(graphdef, params, stats, copy=True)
            decision = policy(normalize(image, *normalization), key)
            mask, logits = decision.action, decision.scores
            uncertain = entropy(logits).mean()
            value = policy_loss(variant, logits, mask, high, low, valid)
            value = value - LEARNED[variant][1] * uncertain
            return value, (nnx.split(policy, nnx.Param, ...)[2], uncertain)

        grads, (stats, uncertain) = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), stats, opt_state, uncertain

    opt_state, rng = optimizer.init(params), np.random.default_rng(seed)
    arrays = split.image, split.high, split.low, split.valid
    uncertain = jnp.zeros(())
    for number in range(STEPS):
        chosen = rng.choice(len(split.image), BATCH, replace=False)
        key = jax.random.fold_in(jax.random.key(seed), number)
        batch = [x[chosen] for x in arrays]
        params, stats, opt_state, uncertain = step(params, stats, opt_state, key, *batch)
    policy = nnx.merge(graphdef, params, stats)
    policy.eval()
    return policy, float(uncertain)


def new_policy(name: str, spec: sb.ModelSpec, **options: Any) -> nnx.Module:
    """A policy for the blocks of a model."""
    assert spec.policy is not None
    return sb.policies.create(name, block_size=spec.policy.block_size, target=TARGET, **options)


def score(variant: str, seed: int, train: Split, val: Split, spec: sb.ModelSpec) -> dict:
    """Scores of all val blocks, with what is known of the policy that gave them."""
    normalization = (spec.mean, spec.std)
    if variant not in LEARNED:
        policy = new_policy(variant, spec)
        image = normalize(jnp.asarray(val.image), *normalization)
        decision = policy(image, jax.random.key(seed), jnp.asarray(val.low - val.high))
        return {"scores": np.asarray(decision.scores)}
    policy, uncertain = learn(variant, seed, train, spec)
    run = nnx.jit(lambda policy, image: policy(normalize(image, *normalization)).scores)
    parts = [np.asarray(run(policy, x[None])) for x in val.image]
    scores = np.concatenate(parts)
    wanted = (scores > 0).mean((1, 2))
    found = {"entropy": uncertain, "share_wanted": wanted.mean(), "share_spread": wanted.std()}
    return {"scores": scores, **found}


def evaluate(engine: sb.Engine, scores: np.ndarray, val: Split) -> dict:
    """The network's scores with the best-scored share of every image's blocks high."""
    mask = np.asarray(top_fraction(jnp.asarray(scores, jnp.float32), TARGET))
    total = ConfusionTotal(engine.spec.num_classes)
    for image, label, chosen in zip(val.image, val.label, mask, strict=True):
        total.update(label[None], engine(image[None], mask=chosen[None]).labels)
    loss = np.where(mask, val.high, val.low)[val.valid].mean()
    return {"miou": total.scores().mean_iou, "mean_loss": loss, "high_fraction": mask.mean()}


def table(results: pathlib.Path) -> str:
    """Mean and sample standard deviation over seeds, in Markdown."""
    lines = [f"| variant | seeds | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for variant in (*LEARNED, *REFERENCES):
        reports = [json.loads(f.read_text()) for f in sorted(results.glob(f"{variant}_[0-9].json"))]
        cells = []
        for name in COLUMNS:
            values = np.array([report[name] for report in reports if name in report])
            spread = f" ± {values.std(ddof=1):.2g}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.4f}{spread}" if len(values) else "")
        if reports:
            lines.append(f"| {variant} | {len(reports)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Runs what is left to run, a seed of all variants after the other, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder of the trained model")
    parser.add_argument("--data_dir", help="folder of the data set")
    parser.add_argument("--dataset", default="camvid", help="that the model was trained on")
    parser.add_argument("--results", default="policy_rewards", help="folder in experiments/results")
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/policy_rewards"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", default=",".join((*LEARNED, *REFERENCES)))
    parser.add_argument("--features", type=int, help="of new policies; by default the model's")
    parser.add_argument(
        "--export", help="folder to save the model with the one variant's policy in"
    )
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    results = RESULTS / arguments.results
    if arguments.table:
        print(table(results))
        return
    jax.config.update("jax_compilation_cache_dir", str(arguments.runs / "compilation_cache"))
    variants = arguments.variants.split(",")
    if arguments.export is not None and (len(variants) > 1 or variants[0] not in LEARNED):
        parser.error(f"--export takes one of --variants, of {', '.join(LEARNED)}")
    engine = sb.Engine.load(arguments.model)
    if engine.spec.policy is None:
        parser.error(f"--model={arguments.model} has no policy, so no blocks")
    system, spec = sb.load_model(arguments.model), engine.spec
    if arguments.features is not None:
        policy = dataclasses.replace(spec.policy, features=arguments.features)
        spec = dataclasses.replace(spec, policy=policy)
    config = ExperimentConfig.from_mapping(
        {
            "policy": {
                "block_size": engine.multiple,
                "bucket_step": spec.policy.bucket_step,
                "low_factor": spec.policy.low_factor,
            },
            "semantics": dataclasses.asdict(spec.semantics),
        }
    )
    splits = []
    for name in ("train", "val"):
        weights = sha256(pathlib.Path(arguments.model) / "weights.safetensors")
        file = arguments.runs / f"{arguments.dataset}_{name}_{weights[:8]}.npz"
        if not file.exists():
            split = measure(
                system, open_dataset(arguments.dataset, arguments.data_dir, name), config
            )
            np.savez(file, **dataclasses.asdict(split))
        splits.append(Split(**np.load(file)))
    if arguments.export is not None:
        policy, _ = learn(variants[0], 0, splits[0], spec)
        # The defaults of a configuration: a calibrated share, images one by one.
        policy_config = dataclasses.replace(config.policy, target=TARGET)
        config = dataclasses.replace(config, policy=policy_config)
        source = open_dataset(arguments.dataset, arguments.data_dir, "train")
        print(calibrate(policy, config, lambda: source))
        policy_spec = dataclasses.replace(spec.policy, name="reinforce", target=TARGET)
        spec = dataclasses.replace(spec, policy=policy_spec)
        sb.save_model(arguments.export, nnx.Dict(net=system["net"], policy=policy), spec)
        return
    for seed in range(arguments.seeds):
        for variant in variants:
            result = results / f"{variant}_{seed}.json"
            if result.exists() or (seed and variant in ("heuristic", "oracle")):
                continue
            start = time.monotonic()
            found = score(variant, seed, *splits, spec)
            found |= evaluate(engine, found.pop("scores"), splits[1])
            where = {"commit": commit(), "device": device_name(), "jax": jax.__version__}
            setting = {"target": TARGET, "batch_size": BATCH, "steps": STEPS, "rate": RATE}
            setting["features"] = spec.policy.features
            about = {"variant": variant, "seed": seed, "fields": LEARNED.get(variant), **setting}
            write_json(result, {**about, **found, "seconds": time.monotonic() - start, **where})
            print(variant, seed, found, flush=True)


if __name__ == "__main__":
    main()
