"""RANet as the training loop and entry points know it."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from segblocks_jax.data.classification.source import ClassSource
from segblocks_jax.errors import InputError
from segblocks_jax.systems.classifier.base import ImageClassifier
from segblocks_jax.systems.classifier.evaluation import Evaluation, Outputs, summarize
from segblocks_jax.systems.ranet import speed
from segblocks_jax.systems.ranet.config import ExperimentConfig
from segblocks_jax.systems.ranet.engine import Engine
from segblocks_jax.systems.ranet.fits import Fit, fingerprint, fit_all, most_accurate
from segblocks_jax.systems.ranet.loss import exit_losses
from segblocks_jax.systems.ranet.operations import cumulative_macs
from segblocks_jax.systems.ranet.settings import Mode
from segblocks_jax.systems.ranet.spec import ModelSpec
from segblocks_jax.systems.ranet.thresholds import budgeted
from segblocks_jax.training.steps import Metrics
from segblocks_jax.training.system import OnBatch


class RANetSystem(ImageClassifier):
    """Classification with early exits: all are trained together, thresholds are fitted on held-out images."""

    config_type = ExperimentConfig
    default_mode: str | None = None  # Of engines; None: their own.

    def __init__(self, config: ExperimentConfig, **options: Any) -> None:
        """Opens no data yet; `options` as for `ImageClassifier`."""
        super().__init__(config, **options)
        self._fits: tuple[Fit, ...] = ()
        self._weights: str | None = None

    @property
    def spec(self) -> ModelSpec:
        """Of the network, with the thresholds of the last `calibrate`."""
        options = self.config.model.options
        own = {"options": options, "fits": self._fits, "weights": self._weights}
        return ModelSpec(**self.spec_fields(), **own)

    def loss(
        self,
        modules: Any,
        image: Float[Array, "n h w 3"],
        label: Int[Array, "n"],
        keys: Array,
        progress: Float[Array, ""],
    ) -> tuple[Array, Metrics]:
        """The sum over the exits of their mean cross-entropies."""
        logits = modules.net(image)
        losses = exit_losses(logits, label, self.config.optim.label_smoothing)
        right = jnp.stack([(jnp.argmax(x, -1) == label).mean(dtype=jnp.float32) for x in logits])
        return losses.sum(), {"top1": right[-1], "top1_exit1": right[0]}

    @functools.cached_property
    def macs(self) -> Int[np.ndarray, "exits"]:
        """Operations of an image up to each exit."""
        net = jax.eval_shape(lambda: self.build())
        return cumulative_macs(net.net, self.config.data.crop)

    def check_trained(self, stored: Mapping[str, Any]) -> None:
        """Refuses thresholds of images that were trained on, or for images of another size."""
        data, then = self.config.data, stored["data"]
        if data.holdout > then["holdout"]:
            raise InputError(
                f"data.holdout is {data.holdout}, but {then['holdout']} in the run that trained the network:"
                " thresholds would be fitted on images that it was trained on"
            )
        for name, now in (("crop", data.crop), ("resize", data.resize)):
            if data.holdout and _plain(then[name]) != now:
                raise InputError(
                    f"data.{name} is {now}, but {_plain(then[name])} in the run that fitted the thresholds; give"
                    " data.holdout=0 to go without"
                )

    def calibrate(
        self, modules: Any, stored: Mapping[str, float] | None = None
    ) -> dict[str, float] | None:
        """Fits thresholds on the held-out training images, without augmentation; none without `data.holdout`."""
        if not self.config.data.holdout:
            return None
        if stored is None:
            source = self.config.data.open("holdout")
            outputs = self.outputs(modules, source, keep_logits=True)
            self._fits = fit_all(probabilities(outputs), outputs.labels, self.macs)
        else:
            self._fits = _from_stored(stored, len(self.macs))
        self._weights = fingerprint(modules.net)
        return _to_stored(self._fits)

    def outputs(self, modules: Any, source: ClassSource, **options: Any) -> Outputs:
        """What the modules say of all images of a source, of all exits; arguments as of `ImageClassifier.outputs`."""
        plain = copy.copy(self)
        plain._fits, plain._weights = (), None  # With every other spec a program would be compiled.
        return super(RANetSystem, plain).outputs(modules, source, **options)

    def evaluate(self, modules: Any, *, on_batch: OnBatch | None = None) -> Evaluation:
        """Accuracies of all exits; of leaving early, see `leaving`, at the most accurate fit."""
        outputs = self.outputs(modules, self.eval_source, keep_logits=True, on_batch=on_batch)
        more: dict[str, float] = {}
        if self._fits:
            best = most_accurate(self._fits)
            (row,) = self.leaving(outputs, (best,))
            more = {"early_top1": row["accuracy"] / 100, "early_gmacs": row["macs"] / 1e9}
            more |= {f"share_exit{k}": share for k, share in enumerate(row["shares"], 1)}
        return summarize(outputs, float(self.macs[-1]) / 1e9, self.classes, more)

    def leaving(
        self, outputs: Outputs, fits: tuple[Fit, ...] | None = None
    ) -> list[dict[str, Any]]:
        """What leaving at thresholds gives on images: for each fit accuracy in percent, operations, shares of exits.

        `outputs` are those of `ImageClassifier.outputs` with logits.
        """
        found, given = [], probabilities(outputs)
        for fit in self._fits if fits is None else fits:
            thresholds = np.asarray(fit.thresholds, np.float32)
            accuracy, macs, counts = budgeted(given, outputs.labels, thresholds, self.macs)
            shares = (counts / counts.sum()).tolist()
            found.append({"q": fit.q, "accuracy": accuracy, "macs": macs, "shares": shares})
        return found

    def details(self, modules: Any, result: Any) -> dict[str, Any]:
        """Operations up to each exit, too, and the thresholds."""
        own = {"macs": self.macs.tolist(), "fits": [dataclasses.asdict(x) for x in self._fits]}
        return super().details(modules, result) | own

    def engine(self, modules: Any, **options: Any) -> Engine:
        """An engine from which confident images leave early; `options` as for `Engine`."""
        return Engine(modules, self.spec, **{"mode": self.default_mode, **options})

    def predict(
        self,
        load: Callable[[], Any],
        source: str,
        output: Path,
        *,
        mode: str = "exact",
        **options: Any,
    ) -> int:
        """Classifies files; `mode` is the engine's, "exact" its default. Else as `ImageClassifier.predict`."""
        if mode == "exact":
            return super().predict(load, source, output, **options)
        Mode.parse(mode)  # Before anything is loaded.
        leaving = copy.copy(self)
        leaving.default_mode = mode
        return leaving.predict(load, source, output, **options)

    def speed(self, size: tuple[int, int] | None = None) -> tuple[dict[str, Any], str]:
        """Times leaving early beside all exits, with random weights."""
        modules: Any = self.build()
        spec = dataclasses.replace(self.spec, fits=(), weights=None)
        if size is not None:
            spec = dataclasses.replace(spec, crop=size, resize=None)
        report = speed.measure(modules.net, spec)
        return report, speed.format_report(report)


def probabilities(outputs: Outputs) -> Float32[np.ndarray, "exits n k"]:
    """Softmax of every exit."""
    assert outputs.logits is not None
    return np.asarray(jax.nn.softmax(jnp.asarray(outputs.logits)))


def _plain(value: Any) -> Any:
    """A list of JSON as the tuple that it was."""
    return tuple(value) if isinstance(value, list) else value


def _to_stored(fits: tuple[Fit, ...]) -> dict[str, float]:
    """Plain numbers by name, which checkpoints keep."""
    found: dict[str, float] = {}
    for fit in fits:
        found |= {f"q{fit.q:g}/accuracy": fit.accuracy, f"q{fit.q:g}/macs": fit.macs}
        found |= {f"q{fit.q:g}/exit{k}": x for k, x in enumerate(fit.thresholds)}
    return found


def _from_stored(stored: Mapping[str, float], exits: int) -> tuple[Fit, ...]:
    fits = []
    for name in stored:
        q, _, last = name.partition("/")
        if last == "accuracy":
            thresholds = tuple(stored[f"{q}/exit{k}"] for k in range(exits))
            fit = Fit(float(q[1:]), thresholds, stored[name], stored[f"{q}/macs"])
            fits.append(fit)
    return tuple(fits)


SYSTEM = RANetSystem
