"""What a configuration stands for: its data, the spec of its model, and the model."""

from flax import nnx

from segblocks_jax.data import DATASETS, SceneSet, SegmentationSource, open_dataset
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.systems.segblocks.spec import ModelSpec, PolicySpec


def open_source(
    config: ExperimentConfig, split: str, data_dir: str | None = None
) -> SegmentationSource:
    """Opens a split of the experiment's data set; see `segblocks_jax.data.open_dataset`."""
    data, scenes = config.data, None
    if DATASETS[data.dataset].generate is not None:
        (train, val), (height, width) = data.scenes, data.scene_size
        scenes = SceneSet(train=train, val=val, height=height, width=width)
    folder = data_dir or data.data_dir
    return open_dataset(data.dataset, folder, split, scenes=scenes, on_error=data.on_error)


def model_spec(config: ExperimentConfig, num_classes: int) -> ModelSpec:
    """The spec of an experiment, without class names and normalization: what builds its system."""
    model, policy = config.model, None
    if config.policy.kind is not None:
        names = ("name", "block_size", "target", "bucket_step", "low_factor", "features")
        policy = PolicySpec(**{name: getattr(config.policy, name) for name in names})
    return ModelSpec(
        name=model.factory or model.name,
        num_classes=num_classes,
        width=model.width,
        features=model.features,
        dilations=model.dilations,
        padding=model.padding,
        stride_in=model.stride_in,
        semantics=config.semantics,
        policy=policy,
        dataset=config.data.dataset,
        input_scale=model.input_scale,
    )


def create_system(config: ExperimentConfig, num_classes: int) -> nnx.Dict:
    """Builds the network and, unless the experiment is static, the policy: ``{"net", "policy"}``.

    Raises ValueError where the blocks are too small for the network.
    """
    spec = model_spec(config, num_classes)
    model = config.model
    system = spec.build(nnx.Rngs(config.seed), dropout=model.dropout, auxiliary=model.auxiliary)
    if config.policy.share == "dual" and "policy" in system and system.policy.learned:
        system.policy.start_price()
    return system
