"""Checkpoints: what goes in comes out, what does not fit is refused, half-done is not there."""

import os
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from segblocks_jax.training import flat_state
from segblocks_jax.training.checkpoints import Checkpoints


def a_state(value: float = 0.0) -> dict:
    return {
        "params": {"stem": {"kernel": jnp.arange(6.0).reshape(2, 3) + value}},
        "moments": (jnp.full((3,), value, jnp.bfloat16), [np.arange(4)]),
        "step": jnp.int32(value),
        "empty": jnp.zeros((0, 3)),
        "key": jax.random.key(7),
        "keys": jax.random.split(jax.random.key(1, impl="rbg"), 3),
    }


def assert_same(got: dict, expected: dict) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True
    ):
        assert a.dtype == b.dtype, path
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b, err_msg=str(path))


def test_state_extra_and_step_survive(tmp_path):
    extra = {"config": {"lr": 4e-4, "name": "rn18"}, "iterator": "opaque text"}
    with Checkpoints(tmp_path / "run", model="rn18") as checkpoints:
        checkpoints.save(5, a_state(5), extra)
    with Checkpoints(tmp_path / "run", model="rn18") as checkpoints:
        assert checkpoints.read_extra() == extra
        state, got_extra, step = checkpoints.restore(a_state())
    assert (got_extra, step) == (extra, 5)
    assert_same(state, a_state(5))
    assert isinstance(state["moments"][1][0], np.ndarray)
    # A key restored is the key that was saved, not its bits alone.
    expected = jax.random.normal(a_state()["keys"][2], (2,))
    np.testing.assert_array_equal(jax.random.normal(state["keys"][2], (2,)), expected)


def test_a_template_of_shapes_is_enough(tmp_path):
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), a_state())
    expected = a_state(2)
    expected["moments"][1][0] = shapes["moments"][1][0] = jnp.arange(4)
    with Checkpoints(tmp_path, model="rn18") as checkpoints:
        checkpoints.save(2, expected)
        shapes["moments"][1][0] = jax.ShapeDtypeStruct((4,), jnp.int32)
        assert_same(checkpoints.restore(shapes)[0], expected)


def test_arrays_return_to_their_shardings(tmp_path):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    sharded = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    state = {
        "sharded": jax.device_put(jnp.arange(8.0), sharded),
        "whole": jax.device_put(jnp.arange(3.0), whole),
        "anywhere": jnp.arange(2.0),
    }
    with Checkpoints(tmp_path, model="m") as checkpoints:
        checkpoints.save(1, state)
        got, _, _ = checkpoints.restore(state)
    assert_same(got, state)
    assert got["sharded"].sharding == sharded
    assert got["whole"].sharding == whole
    assert not got["anywhere"].committed
    # Committed to one device, the third array would be refused beside the other two.
    jax.block_until_ready(jax.jit(lambda s: s["sharded"].sum() + s["anywhere"].sum())(got))


def test_state_may_be_donated_or_changed_while_it_is_written(tmp_path):
    state = {str(i): jnp.full((500, 500), float(i)) for i in range(8)}
    host = np.ones((500, 500))
    with Checkpoints(tmp_path, model="m") as checkpoints:
        checkpoints.save(1, {"device": state, "host": host})
        spoiled = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)(state)
        host[:] = -1
        got, _, _ = checkpoints.restore({"device": spoiled, "host": host})
    assert all((got["device"][str(i)] == i).all() for i in range(8))
    assert (got["host"] == 1).all()


def test_the_latest_and_the_best_are_kept(tmp_path):
    scores = {1: 0.1, 2: 0.7, 3: float("nan"), 4: 0.5, 5: None, 6: 0.2}
    with Checkpoints(tmp_path, model="m", keep=2) as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (None, None)
        for step, miou in scores.items():
            metrics = None if miou is None else {"miou": miou, "loss": 1.0}
            checkpoints.save(step, {"x": jnp.full((2,), step)}, metrics=metrics)
        assert checkpoints.steps() == [2, 5, 6]
    with Checkpoints(tmp_path, model="m", keep=2) as checkpoints:
        assert checkpoints.steps() == [2, 5, 6]
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (6, 2)
        template = {"x": jnp.zeros((2,), int)}
        assert checkpoints.restore(template, "best")[0]["x"][0] == 2
        assert checkpoints.restore(template, 5)[0]["x"][0] == 5
        assert checkpoints.restore(template)[2] == 6


def test_another_model_is_refused_with_every_difference(tmp_path):
    stored = {f"old{i}": jnp.zeros(i + 1) for i in range(25)} | {
        "shape": jnp.zeros((2, 3)),
        "dtype": jnp.zeros((2,)),
        "key": jax.random.key(0),
        "same": jnp.ones(1),
    }
    wanted = {
        "new": {"kernel": jnp.zeros((3, 3))},
        "shape": jnp.zeros((3, 2)),
        "dtype": jnp.zeros((2,), jnp.bfloat16),
        "key": jax.random.key(0, impl="rbg"),
        "same": jnp.ones(1),
    }
    with Checkpoints(tmp_path, model="rn18") as checkpoints:
        checkpoints.save(3, stored)
    with Checkpoints(tmp_path, model="rn50", keep=1) as checkpoints:
        with pytest.raises(ValueError, match=r"step 3 .* holds model 'rn18'") as restoring:
            checkpoints.restore(wanted)
        with pytest.raises(ValueError, match="does not fit model 'rn50'") as saving:
            checkpoints.save(4, wanted)
    for text in (str(restoring.value), str(saving.value)):
        assert "1 missing from the checkpoint:\n    new/kernel: float32 (3, 3)\n" in text
        assert "25 unexpected in the checkpoint:\n" in text
        assert text.count("    old") == flat_state.MAX_LISTED
        assert "... and 5 more" in text
        assert "3 of another shape or dtype:" in text
        assert "shape: float32 (2, 3) in the checkpoint, float32 (3, 2) in the model" in text
        assert "dtype: float32 (2,) in the checkpoint, bfloat16 (2,) in the model" in text
        assert "key: key<fry> () in the checkpoint, key<rbg> () in the model" in text
        assert "same" not in text
        assert "read_extra()" in text
    with Checkpoints(tmp_path, model="rn18") as checkpoints:
        assert checkpoints.steps() == [3]
        assert_same(checkpoints.restore(stored)[0], stored)


def test_a_step_is_never_overwritten(tmp_path):
    with Checkpoints(tmp_path, model="m") as checkpoints:
        checkpoints.save(1, a_state(1))
        with pytest.raises(FileExistsError, match="step 1 exists"):
            checkpoints.save(1, a_state(2))
        assert_same(checkpoints.restore(a_state())[0], a_state(1))


def test_missing_checkpoints_are_file_not_found_and_make_no_folder(tmp_path):
    nowhere = Checkpoints(tmp_path / "nowhere", model="m")
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere; check the path"):
        nowhere.restore(a_state())
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "empty").mkdir()
    with Checkpoints(tmp_path / "empty", model="m") as checkpoints:
        with pytest.raises(FileNotFoundError, match="no finished checkpoint"):
            checkpoints.restore(a_state())
        checkpoints.save(1, a_state())
        with pytest.raises(FileNotFoundError, match=r"no step 2 .* holds steps \[1\]"):
            checkpoints.restore(a_state(), 2)
        with pytest.raises(FileNotFoundError, match="no step with the metric 'miou'"):
            checkpoints.restore(a_state(), "best")


def test_half_written_checkpoints_are_passed_over(tmp_path):
    with Checkpoints(tmp_path, model="m") as checkpoints:
        checkpoints.save(1, a_state(1))
        checkpoints.save(2, a_state(2))
    (tmp_path / "2").rename(tmp_path / "2.orbax-checkpoint-tmp")
    (tmp_path / "3").mkdir()
    with Checkpoints(tmp_path, model="m") as checkpoints:
        assert checkpoints.steps() == [1]
        assert_same(checkpoints.restore(a_state())[0], a_state(1))
        checkpoints.save(2, a_state(4))
        assert_same(checkpoints.restore(a_state())[0], a_state(4))


def test_a_process_killed_while_saving_leaves_the_earlier_checkpoint(tmp_path):
    program = textwrap.dedent("""
        import os, signal, sys
        import numpy as np
        from orbax.checkpoint._src.path import atomicity
        from segblocks_jax.training.checkpoints import Checkpoints
        checkpoints = Checkpoints(sys.argv[1], model="m")
        checkpoints.save(1, {"x": np.ones(3)})
        checkpoints.wait()
        async def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
        atomicity.AtomicRenameTemporaryPath.finalize = die
        checkpoints.save(2, {"x": np.zeros(3)})
        checkpoints.wait()
    """)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert any(path.name.startswith("2.") for path in tmp_path.iterdir())
    with Checkpoints(tmp_path, model="m") as checkpoints:
        state, _, step = checkpoints.restore({"x": np.empty(3)})
    assert step == 1
    np.testing.assert_array_equal(state["x"], 1)


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="keep is 0, expected at least 1"):
        Checkpoints(tmp_path, model="m", keep=0)
    with Checkpoints(tmp_path, model="m") as checkpoints:
        with pytest.raises(TypeError, match=r"entry 'opt/lr' is a float.*into extra"):
            checkpoints.save(1, {"opt": {"lr": 0.1}})
        with pytest.raises(TypeError, match=r"does not fit into JSON.*paths to strings"):
            checkpoints.save(1, a_state(), {"folder": tmp_path})
        with pytest.raises(ValueError, match=r"metrics hold \['loss'\], but not 'miou'"):
            checkpoints.save(1, a_state(), metrics={"loss": 1.0})
        with pytest.raises(ValueError, match="two entries of the state are named 'a/b'"):
            checkpoints.save(1, {"a": {"b": jnp.ones(1)}, "a/b": jnp.ones(1)})
        assert checkpoints.steps() == []
