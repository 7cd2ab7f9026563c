"""Engines as ONNX: the same answers from another runtime."""

import numpy as np
import pytest
from test_engine import SPEC, build, pictures

import segblocks_jax as sb
from segblocks_jax.systems.segblocks.export import export_onnx

SHAPE = (1, 64, 128)


@pytest.fixture(scope="module")
def system():
    return build()


@pytest.mark.parametrize("in_blocks", [False, True])
def test_another_runtime_gives_the_same(in_blocks, system, tmp_path):
    pytest.importorskip("jax2onnx", reason="no jax2onnx; pip install 'segblocks-jax[onnx]'")
    runtime = pytest.importorskip("onnxruntime", reason="no onnxruntime; pip install onnxruntime")
    engine = sb.Engine(system if in_blocks else system.net, SPEC, execution="xla", mode="budget=1")
    file = export_onnx(engine, tmp_path / "engine.onnx", SHAPE)
    session = runtime.InferenceSession(str(file))
    images = pictures(*SHAPE)
    given = (images, np.array(SHAPE, np.int32), np.array(0, np.uint32))
    names = [value.name for value in session.get_inputs()]
    assert len(names) == (3 if in_blocks else 1)
    got, *policy = session.run(None, dict(zip(names, given, strict=False)))
    expected = engine(images, output="logits")
    np.testing.assert_allclose(got, expected.logits, atol=1e-4 * expected.logits.std())
    if in_blocks:
        np.testing.assert_array_equal(policy[0], expected.mask)


def test_what_onnx_can_not_hold(system, tmp_path):
    with pytest.raises(ValueError, match="execution is 'plain'; ONNX has no custom calls"):
        export_onnx(sb.Engine(system, SPEC, execution="plain"), tmp_path / "x", SHAPE)
    with pytest.raises(ValueError, match="mode 'exact' takes 4 programs"):
        export_onnx(sb.Engine(system, SPEC, execution="xla"), tmp_path / "x", SHAPE)
