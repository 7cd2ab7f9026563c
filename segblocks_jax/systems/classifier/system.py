"""The plain classifier as the training loop, sweeps and entry points know it."""

from pathlib import Path
from typing import Any

from segblocks_jax.interop import load_backbone
from segblocks_jax.systems.classifier.base import ImageClassifier
from segblocks_jax.systems.classifier.config import ExperimentConfig
from segblocks_jax.systems.classifier.spec import ModelSpec


class Classifier(ImageClassifier):
    """One network, a backbone of this library with a linear layer; every image takes the same operations."""

    config_type = ExperimentConfig

    @property
    def spec(self) -> ModelSpec:
        """Of the network."""
        return ModelSpec(**self.spec_fields(), width=self.config.model.width)

    def load_pretrained(self, modules: Any, workdir: Path | None = None) -> dict[str, Any] | None:
        """Loads `config.model.pretrained` into the backbone."""
        file = self.config.model.pretrained
        normalization = self.config.data.normalization
        return None if file is None else load_backbone(modules.net, file, normalization)


SYSTEM = Classifier
