"""Engine: a trained RANet that serves images, of which easy ones leave early."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from flax import nnx

from segblocks_jax.data.normalization import Normalization
from segblocks_jax.errors import InputError
from segblocks_jax.inference.programs import PLATFORMS
from segblocks_jax.inference.server import check_fork
from segblocks_jax.interop import load_model, load_spec
from segblocks_jax.systems.ranet.exported import export_stages
from segblocks_jax.systems.ranet.network import RANet
from segblocks_jax.systems.ranet.operations import cumulative_macs
from segblocks_jax.systems.ranet.programs import EXECUTIONS, StagePrograms
from segblocks_jax.systems.ranet.serving import Server
from segblocks_jax.systems.ranet.settings import Mode, Settings
from segblocks_jax.systems.ranet.spec import ModelSpec


class Engine(Server):
    """Serves a trained network: uint8 images in, classes out.

    After each exit the images that are confident enough leave; the others go on as one smaller batch. Its size is
    rounded up, so that there are few programs: one per stage and size, and what moves images together. They are
    compiled when first needed, or all at once by `warm_up`, and kept. One engine serves several threads.

    Attributes:
        spec: of the model.
        programs: that are compiled and exported.

    Example:
        >>> engine = Engine.load("runs/cifar/export", mode="budget=20")  # doctest: +SKIP
        >>> engine.warm_up()  # doctest: +SKIP
        >>> engine(images).labels  # doctest: +SKIP
    """

    def __init__(
        self,
        model: RANet | nnx.Dict,
        spec: ModelSpec,
        *,
        mode: str | None = None,
        max_count: int = 64,
        bucket_step: float = 1 / 16,
        execution: str | None = None,
    ) -> None:
        """Takes a copy of the weights.

        Args:
            model: a network, or a system ``{"net"}``.
            spec: what describes it; `load_spec` reads it from a saved model.
            mode: where images leave, see `segblocks_jax.systems.ranet.settings.Mode`; default: "accurate", or "all"
                where the spec has no thresholds.
            max_count: images that run together; larger batches are served in parts.
            bucket_step: the number of images is rounded up to a multiple of this share of `max_count`.
            execution: "fused", norms folded into convolutions on the compiled handlers; "plain", the network as it
                is trained; "xla", the same without any custom call. None: "fused" on CPUs with compiled
                handlers, else "plain".

        Raises:
            InputError: thresholds of another model, an unknown mode or execution, images of a size that the network
                can't take.
        """
        check_fork()
        net = model.net if isinstance(model, nnx.Dict) else model
        if execution is not None and execution not in EXECUTIONS:
            raise InputError(
                f"Engine: execution is {execution!r}; expected one of {EXECUTIONS} or None"
            )
        spec.check_fits(net)
        macs = cumulative_macs(net, spec.crop)
        settings = Settings(
            crop=spec.crop,
            resize=spec.resize,
            macs=tuple(map(int, macs)),
            fits=spec.fits,
            mode=Mode.parse(mode or ("accurate" if spec.fits else "all")),
            max_count=max_count,
            bucket_step=bucket_step,
        )
        self.spec = spec
        self.programs = StagePrograms(net, spec.crop, Normalization(spec.mean, spec.std), execution)
        super().__init__(self.programs, settings)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], **options: Any) -> "Engine":
        """An engine of a model that `segblocks_jax.load_model` finds; `options` as for the engine."""
        check_fork()
        return cls(load_model(folder), load_spec(folder), **options)

    def export(
        self, folder: str | os.PathLike[str], *, platforms: Sequence[str] = PLATFORMS
    ) -> pathlib.Path:
        """Writes a StableHLO program (`jax.export`) per stage, for any number of images, and its weights.

        `segblocks_jax.systems.ranet.exported.ExportedEngine` serves them, with this engine's thresholds and mode.

        Args:
            folder: made; it must not exist.
            platforms: "cpu" and "cuda".

        Raises:
            FileExistsError: the folder exists.
            InputError: an unknown platform, or the engine's execution is "fused".
            ModuleNotFoundError: flatbuffers is missing.
        """
        spec = self.spec.to_dict()
        return export_stages(folder, self.programs, self.settings, spec, platforms)
