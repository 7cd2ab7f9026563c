"""What earlier versions stored is read as what it was, or refused; never as today's defaults."""

import copy
import dataclasses
import hashlib
import json
import pathlib
import shutil

import pytest
import tiny

import segblocks_jax as sb
from segblocks_jax.analysis.records import read_records, write_tables
from segblocks_jax.analysis.table import format_table
from segblocks_jax.experiments.defaults import config as file_config
from segblocks_jax.structured_config import (
    ConfigError,
    check_name,
    fields_affecting,
    flat,
    leaves,
    nested,
)
from segblocks_jax.systems.dynconv.config import ExperimentConfig as DynConvConfig
from segblocks_jax.systems.segblocks import migrations
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.training.workdir import check_same_config

RESULTS = pathlib.Path(__file__).resolve().parent.parent / "experiments" / "results"
OLD_NAMES = {new: old for old, new in migrations.RENAMED.items()}
EARLIEST = {"policy.quantise_step": 0.29, "rematerialise": True, "policy.advantage": "normalised"}


def version_0(config, without=()):
    """What version 0 stored of a configuration."""
    fields = flat(config.to_dict())
    fields = {OLD_NAMES.get(k, k): v for k, v in fields.items() if k not in without}
    if fields.get("policy.advantage") == "normalized":
        fields["policy.advantage"] = "normalised"
    return json.loads(json.dumps(nested(fields)))


def test_a_schema_has_its_fields():
    """If this fails, count SCHEMA up and add a migration: files of the last version have other fields."""
    fields = "\n".join(sorted(name for name, _, _ in leaves(ExperimentConfig)))
    digest = hashlib.sha256(fields.encode()).hexdigest()[:12]
    assert {ExperimentConfig.SCHEMA: digest} == {8: "767918abfbdd"}
    assert ExperimentConfig.MIGRATIONS.keys() == {*range(ExperimentConfig.SCHEMA)}


def test_fields_say_what_they_affect():
    assert fields_affecting(ExperimentConfig, "rounding") == (
        "rematerialize",
        "model.implementation",
    )
    free = fields_affecting(ExperimentConfig, "nothing")
    assert {"name", "data.data_dir", "data.workers", "loop.log_every"} <= {*free}
    assert not {"loop.eval_batch_size", "loop.eval_sizes", "seed", "data.on_error"} & {*free}


def test_flat_and_nested_are_inverse():
    fields = tiny.config().to_dict()
    assert flat(nested(flat(fields))) == flat(fields)


def test_a_configuration_of_version_0_is_read_under_todays_names(tmp_path):
    config = tiny.config(
        policy={"advantage": "normalized", "bucket_step": 0.29}, rematerialize=True
    )
    stored = version_0(config)
    assert flat(stored).items() >= EARLIEST.items()
    assert ExperimentConfig.from_stored(stored) == config
    check_same_config(stored, config, tmp_path)
    with pytest.raises(ConfigError, match=r"policy\.bucket_step: 0\.29 there, 0\.5 now"):
        check_same_config(stored, tiny.config(policy={"bucket_step": 0.5}), tmp_path)


@pytest.mark.parametrize(("then", "now"), [("pad", "xla"), ("xla", "reference"), ("ffi", "ffi")])
def test_ways_to_run_a_convolution_have_other_names_now(then, now):
    stored = version_0(tiny.config())
    stored["model"]["conv_implementation"] = then
    assert ExperimentConfig.from_stored(stored).model.implementation == now


def test_fields_that_version_0_lacked_have_the_values_of_then():
    read = ExperimentConfig.from_stored(version_0(tiny.config(), migrations._ADDED_IN_0))
    assert flat(read.to_dict()).items() >= migrations._ADDED_IN_0.items()
    lacking = version_0(tiny.config(), ("optim.steps",))
    with pytest.raises(ConfigError, match=r"stored configuration lacks optim\.steps"):
        ExperimentConfig.from_stored(lacking)


def test_a_configuration_of_schema_1_padded_and_strode_as_then(tmp_path):
    stored = json.loads(json.dumps(tiny.config().stored()))
    stored["schema"] = 1
    for name in ("padding", "stride_in"):
        del stored["model"][name]
    assert ExperimentConfig.from_stored(stored) == tiny.config()
    mobile = tiny.config(model={"name": "swiftnet_mobilenetv2", "width": 64, "padding": "same_tf"})
    with pytest.raises(ConfigError, match=r"model\.padding: 'symmetric' there, 'same_tf' now"):
        check_same_config(stored, mobile, tmp_path)


@pytest.mark.parametrize("schema", [1, 2])
def test_policies_of_before_calibration_are_served_as_then(schema, tmp_path):
    def before(config):
        later = {*migrations._ADDED_IN_2, "policy.share"}
        fields = {k: v for k, v in flat(config.to_dict()).items() if k not in later}
        return json.loads(json.dumps({"schema": schema, **nested(fields)}))

    check_same_config(before(tiny.config("static")), tiny.config("static"), tmp_path)
    stored = before(tiny.config())
    assert ExperimentConfig.from_stored(stored) == tiny.config(policy={"share": "published"})
    with pytest.raises(ConfigError, match=r"policy\.share: 'published' there, 'calibrated' now"):
        check_same_config(stored, tiny.config(), tmp_path)
    stored["policy"]["share"] = "dual"  # Of a file between two versions.
    assert ExperimentConfig.from_stored(stored).policy.share == "dual"


@pytest.mark.parametrize("schema", [-1, 9, "1", None, 1.5])
def test_other_schemas_are_refused(schema):
    stored = {**tiny.config().stored(), "schema": schema}
    for read in (ExperimentConfig.from_stored, ExperimentConfig.from_mapping):
        with pytest.raises(ConfigError, match=rf"has schema {schema!r}, which can't be read"):
            read(stored)


@pytest.mark.parametrize(("old", "new"), migrations.RENAMED.items())
def test_an_old_name_stands_for_the_new_one_and_says_so(old, new):
    value = {"policy.bucket_step": 0.5, "rematerialize": True, "model.implementation": "xla"}[new]
    for mapping in (nested({old: value}), file_config(nested({old: value})).to_dict()):
        with pytest.warns(FutureWarning, match=f"{old} is called {new} now"):
            read = ExperimentConfig.from_mapping(mapping)
        assert flat(read.to_dict())[new] == value
    with pytest.raises(ConfigError, match=f"unknown field {old}; it is called {new} now"):
        check_name(ExperimentConfig, old)
    check_name(ExperimentConfig, new)


def published():
    records = {f: json.loads(f.read_text()) for f in sorted(RESULTS.rglob("*.json"))}
    return {
        f.parent.name + f.stem: r for f, r in records.items() if {"config", "metrics"} <= r.keys()
    }


def classified():
    return {name: r for name, r in published().items() if "top1" in r["metrics"]}


@pytest.mark.parametrize(("name", "record"), classified().items())
def test_published_records_of_classifiers_are_readable(name, record):
    config = DynConvConfig.from_stored(record["config"])
    assert config.optim.steps == record["step"]
    assert name.endswith(f"_{config.masks.target:.0%}".rstrip("%"))


@pytest.mark.parametrize(
    ("name", "record"), [x for x in published().items() if x[0] not in classified()]
)
def test_published_records_are_readable(name, record):
    record = migrations.current_record(record)
    assert ExperimentConfig.from_stored(record["config"]).optim.steps == record["step"]
    assert f"{record['metrics']['miou']:.1%}" in format_table([record]), name


def test_published_tables_come_out_again_also_from_records_under_old_names(tmp_path):
    claim = shutil.copytree(RESULTS / "claim_camvid", tmp_path / "claim")
    for file in claim.glob("runs/*/run.json"):
        record = json.loads(file.read_text())
        for group in ("metrics", "at_target"):
            if record[group]:
                names = {k: {"high_fraction": "share_high"}.get(k, k) for k in record[group]}
                record[group] = {names[k]: v for k, v in record[group].items()}
        record["config"] = version_0(ExperimentConfig.from_stored(record["config"]))
        file.write_text(json.dumps(record))
    assert "share_high" not in str(read_records(claim))
    for path in write_tables(claim):
        assert path.read_bytes() == (RESULTS / "claim_camvid" / "tables" / path.name).read_bytes()


SPEC = sb.ModelSpec("swiftnet_rn18", 3, policy=sb.PolicySpec(bucket_step=0.25, target=0.2))


def test_a_saved_model_of_earlier_is_read_as_it_was():
    spec = json.loads(json.dumps(SPEC.to_dict()))
    assert spec.pop("schema") == 6
    del spec["policy"]["features"]
    spec["policy"]["quantise_step"] = spec["policy"].pop("bucket_step")
    for name in ("dilations", "input_scale", "padding", "stride_in", "class_colors"):
        del spec[name]
    del spec["quantization"], spec["semantics"]["padding"], spec["semantics"]["image_statistics"]
    before = copy.deepcopy(spec)
    assert sb.ModelSpec.from_mapping(spec) == SPEC
    assert spec == before


def test_a_saved_model_of_schema_1_pads_and_strides_as_then():
    spec = json.loads(json.dumps({**SPEC.to_dict(), "schema": 1}))
    for name in ("padding", "stride_in", "class_colors"):
        del spec[name]
    assert sb.ModelSpec.from_mapping(spec) == SPEC


def test_a_saved_model_keeps_its_colors_and_had_none_in_schema_2():
    colors = ((1, 2, 3), (4, 5, 6), (7, 8, 255))
    painted = dataclasses.replace(SPEC, class_colors=colors)
    spec = json.loads(json.dumps(painted.to_dict()))
    assert sb.ModelSpec.from_mapping(spec) == painted
    del spec["class_colors"]
    del spec["policy"]["features"]
    assert sb.ModelSpec.from_mapping({**spec, "schema": 2}) == SPEC
    with pytest.raises(ValueError, match="2 class_colors for num_classes 3"):
        dataclasses.replace(SPEC, class_colors=colors[:2])


def test_policies_of_schema_3_had_64_features_and_networks_alone_none():
    spec = json.loads(json.dumps({**SPEC.to_dict(), "schema": 3}))
    del spec["policy"]["features"]
    assert sb.ModelSpec.from_mapping(spec) == SPEC
    alone = dataclasses.replace(SPEC, policy=None)
    assert sb.ModelSpec.from_mapping({**alone.to_dict(), "schema": 3}) == alone


def test_models_of_schema_4_were_not_quantized():
    ranges = {"conv": {"input": (-1.5, 2.0), "output": (0.0, 6.0)}}
    quantized = dataclasses.replace(SPEC, quantization=ranges)
    spec = json.loads(json.dumps(quantized.to_dict()))
    assert sb.ModelSpec.from_mapping(spec) == quantized
    del spec["quantization"]
    assert sb.ModelSpec.from_mapping({**spec, "schema": 4}) == SPEC


def test_networks_of_earlier_were_this_librarys_and_sums_over_images_by_area():
    spec = json.loads(json.dumps({**SPEC.to_dict(), "schema": 5}))
    del spec["semantics"]["image_statistics"]
    assert sb.ModelSpec.from_mapping(spec) == SPEC
    stored = json.loads(json.dumps({**tiny.config().stored(), "schema": 6}))
    del stored["semantics"]["image_statistics"], stored["model"]["factory"]
    assert ExperimentConfig.from_stored(stored) == tiny.config()


def test_a_saved_model_has_all_its_fields_and_a_known_schema():
    for group in (None, "policy", "semantics"):
        spec = SPEC.to_dict()
        part = spec if group is None else spec[group]
        part.popitem()
        with pytest.raises(TypeError, match="lacks"):
            sb.ModelSpec.from_mapping(spec)
    with pytest.raises(ValueError, match="ModelSpec: schema is 7, expected up to 6"):
        sb.ModelSpec.from_mapping({**SPEC.to_dict(), "schema": 7})
