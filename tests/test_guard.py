"""The numbers of `golden_guard.npz`, which guard the semantics where no recorded outputs are at hand."""

import guard
import numpy as np
import pytest

# Gradient norms move where rounding flips a ReLU.
TOLERANCES = {"ops": 1e-6, "net": 1e-4, "training": 1e-5, "policy": 1e-5, "losses": 1e-6}
SLOW = ("net/swiftnet_rn50", "net/swiftnet_efflite1", "training")


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    assert guard.FILE.stat().st_size < 300_000
    with np.load(guard.FILE) as file:
        return dict(file)


@pytest.mark.family(*(part for part in guard.PARTS if part not in SLOW))
@pytest.mark.parametrize("part", guard.PARTS)
def test_numbers_stay(stored: dict[str, np.ndarray], part: str) -> None:
    got = guard.compute(part)
    assert set(got) == {key for key in stored if key.startswith(f"{part}/")}
    tolerance = TOLERANCES[part.partition("/")[0]]
    for key, value in got.items():
        expected = stored[key]
        rtol = 1e-3 if key.endswith("norms") else tolerance
        scale = float(np.std(expected)) if expected.ndim else float(abs(expected))
        np.testing.assert_allclose(value, expected, rtol=rtol, atol=rtol * scale, err_msg=key)
