"""Malformed calls of the handlers of indexed operations: an error that names the argument, no crash."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("compiled")

Buffer = tuple[tuple[int, ...], str]


@dataclasses.dataclass(frozen=True)
class Call:
    """A valid call of a handler; tests spoil it by replacing parts.

    Operands are zeros but for those in `data`.
    """

    operands: dict[str, Buffer]
    results: dict[str, Buffer]
    attributes: dict[str, int]
    data: dict[str, np.ndarray]

    def run(self, target: str) -> list[np.ndarray]:
        arrays = [
            jnp.asarray(self.data[name]) if name in self.data else jnp.zeros(*buffer)
            for name, buffer in self.operands.items()
        ]
        types = [jax.ShapeDtypeStruct(*buffer) for buffer in self.results.values()]
        values = {name: np.int64(value) for name, value in self.attributes.items()}
        results = jax.jit(lambda *a: jax.ffi.ffi_call(target, types)(*a, **values))(*arrays)
        return [np.asarray(result) for result in results]

    def spoiled(self, name: str, shape: tuple[int, ...], dtype: str) -> "Call":
        part = "operands" if name in self.operands else "results"
        data = {key: value for key, value in self.data.items() if key != name}
        buffers = getattr(self, part) | {name: (shape, dtype)}
        return dataclasses.replace(self, **{part: buffers}, data=data)


UNITS = {
    "rows": ((9, 20), "float32"),
    "means": ((2, 4), "int32"),
    "high": ((2, 5, 6), "int32"),
    "low": ((3, 3, 4), "int32"),
    "counts": ((2,), "int32"),
}
BYTE_UNITS = {"byte_rows": ((9, 20), "uint8")} | {k: v for k, v in UNITS.items() if k != "rows"}
COUNTS = {"counts": np.array([2, 3], np.int32)}
HALOS = {"halos": ((2, 20), "float32")}
OUTPUTS = 2 * 3 * 4 + 3 * 1 * 2
SECOND = {"scale2": ((33,), "float32"), "bias2": ((33,), "float32")}
ATTRIBUTES = {
    "kh": 3,
    "kw": 3,
    "stride": 1,
    "dilation": 1,
    "groups": 1,
    "activation": 1,
    "winograd": 0,
}
MASK = np.array([[[True, False, True]]])
CALLS = {
    "segblocks_indexed_conv": Call(
        UNITS
        | {"weights": ((3, 180, 16), "float32")}
        | {"scale": ((33,), "float32"), "bias": ((0,), "float32")}
        | {"residual": ((OUTPUTS, 33), "float32")}
        | SECOND,
        {"out": ((OUTPUTS, 33), "float32"), "out2": ((OUTPUTS, 33), "float32")} | HALOS,
        ATTRIBUTES,
        COUNTS,
    ),
    "segblocks_quantized_conv": Call(
        BYTE_UNITS
        | {"zero": ((1,), "uint8"), "byte_weights": ((3, 45, 64), "int8")}
        | {"scale": ((33,), "float32"), "byte_bias": ((33,), "float32")}
        | {"limits": ((3,), "float32"), "byte_residual": ((OUTPUTS, 33), "uint8")}
        | SECOND,
        {"byte_out": ((OUTPUTS, 33), "uint8"), "out2": ((OUTPUTS, 33), "float32")}
        | {"byte_halos": ((2, 20), "uint8")},
        {name: ATTRIBUTES[name] for name in ("kh", "kw", "stride", "dilation", "groups")},
        COUNTS,
    ),
    "segblocks_depthwise_gradient": Call(
        UNITS | {"cotangents": ((OUTPUTS, 20), "float32")},
        {"kernel": ((9, 20), "float32")} | HALOS,
        {"kh": 3, "kw": 3, "stride": 1, "dilation": 1},
        COUNTS,
    ),
    "segblocks_indexed_max_pool": Call(
        UNITS,
        {"out": ((OUTPUTS, 20), "float32")} | HALOS,
        {"window": 3, "stride": 1},
        COUNTS,
    ),
    "segblocks_indexed_upsample2": Call(
        UNITS
        | {"residual": ((0, 20), "float32")}
        | {"scale2": ((20,), "float32"), "bias2": ((20,), "float32")},
        {"out": ((4 * (2 * 3 * 4 + 3 * 1 * 2), 20), "float32")} | HALOS,
        {},
        COUNTS,
    ),
    "segblocks_index_tables": Call(
        {"mask": ((1, 1, 3), "bool"), "slots": ((1, 1, 3), "int32")}
        | {"high_cells": ((2,), "int32"), "low_cells": ((1,), "int32")},
        {"table_high": ((2, 6, 6), "int32"), "table_low": ((1, 4, 4), "int32")}
        | {"halo_rows": ((8, 4), "int32")},
        {"block_size": 4, "low_factor": 2, "padding": 1, "border": 0},
        {
            "mask": MASK,
            "slots": np.array([[[0, 2, 1]]], np.int32),
            "high_cells": np.array([0, 2], np.int32),
            "low_cells": np.array([1], np.int32),
        },
    ),
}

# Argument -> what to make of it, and what the error must say it expected.
BUFFER_ERRORS: dict[str, list[tuple[tuple[int, ...], str, str]]] = {
    "rows": [
        ((9,), "float32", r"rank 2 \(r, c\)"),
        ((9, 19), "float32", r"shape \(2, 19\)"),
        ((9, 20), "float16", "dtype F32 or BF16"),
        ((9, 20), "int32", "dtype F32 or BF16"),
    ],
    "byte_rows": [
        ((9,), "uint8", r"rank 2 \(r, c\)"),
        ((9, 19), "uint8", r"shape \(2, 19\)"),
        ((9, 20), "int8", "dtype U8"),
        ((9, 20), "float32", "dtype U8"),
    ],
    "zero": [((2,), "uint8", r"shape \(1\)"), ((1,), "int32", "dtype U8")],
    "byte_weights": [
        ((3, 180, 16), "int8", r"shape \(3, 45, 64\)"),
        ((3, 45, 64), "uint8", "dtype S8"),
    ],
    "byte_bias": [((0,), "float32", r"shape \(33\)"), ((33,), "int32", "dtype F32")],
    "limits": [((2,), "float32", r"shape \(3\)"), ((3,), "bfloat16", "dtype F32")],
    "byte_residual": [((1, 33), "uint8", r"shape \("), ((OUTPUTS, 33), "int8", "dtype U8 or F32")],
    "byte_out": [
        ((OUTPUTS,), "uint8", "rank 2"),
        ((OUTPUTS + 1, 33), "uint8", r"shape \("),
        ((OUTPUTS, 33), "bfloat16", "dtype U8 or F32"),
    ],
    "byte_halos": [((3, 20), "uint8", r"shape \(2, 20\)"), ((2, 20), "float32", "dtype U8")],
    "means": [
        ((8,), "int32", "rank 2"),
        ((2, 0), "int32", "q >= 1"),
        ((3, 4), "int32", r"shape \(3, 20\)"),
        ((2, 4), "uint32", "dtype S32"),
    ],
    "high": [((2, 30), "int32", "rank 3"), ((2, 5, 6), "float32", "dtype S32")],
    "low": [((3, 3, 4, 1), "int32", "rank 3"), ((3, 1, 1), "int32", "at least . x .")],
    "counts": [((3,), "int32", r"shape \(2\)"), ((2,), "int16", "dtype S32")],
    "weights": [
        ((180, 33), "float32", r"shape \(3, 180, 16\)"),
        ((2, 180, 16), "float32", r"shape \(3, 180, 16\)"),
        ((3, 180, 16), "bfloat16", "dtype F32 like argument 'rows'"),
    ],
    "scale": [((32,), "float32", r"shape \(33\)"), ((33,), "bfloat16", "dtype F32")],
    "bias": [((1,), "float32", r"shape \(33\)"), ((0, 33), "float32", r"shape \(33\)")],
    "residual": [((1, 7), "float32", r"shape \("), ((0, 20), "bfloat16", "dtype F32")],
    "scale2": [((0,), "float32", r"like argument 'scale2'"), ((7,), "float32", "shape")],
    "bias2": [((0,), "float32", r"like argument 'scale2'"), ((7,), "float32", "shape")],
    "out": [
        ((OUTPUTS,), "float32", r"rank 2|shape \("),
        ((OUTPUTS + 1, 20), "float32", r"shape \("),
        ((OUTPUTS, 33), "bfloat16", "dtype F32|weights"),
    ],
    "cotangents": [
        ((OUTPUTS - 1, 20), "float32", rf"shape \({OUTPUTS}, 20\)"),
        ((OUTPUTS, 20), "bfloat16", "dtype F32"),
    ],
    "kernel": [((3, 3, 20), "float32", r"shape \(9, 20\)"), ((9, 20), "bfloat16", "dtype F32")],
    "out2": [((0, 33), "float32", "rows where scale2"), ((OUTPUTS, 32), "float32", "shape")],
    "halos": [((3, 20), "float32", r"shape \(2, 20\)"), ((2, 20), "bfloat16", "dtype F32")],
    "mask": [((1, 3), "bool", "shape"), ((1, 1, 3), "int32", "dtype PRED")],
    "slots": [((3,), "int32", "rank 3"), ((1, 0, 3), "int32", "gh >= 1")],
    "high_cells": [((4,), "int32", "a number in 0 .. 3"), ((1,), "int32", r"shape \(2\)")],
    "low_cells": [((2,), "int32", r"shape \(1\)"), ((1,), "uint8", "dtype S32")],
    "table_high": [((2, 6, 5), "int32", r"shape \(2, 6, 6\)")],
    "table_low": [((1, 6, 6), "int32", r"shape \(1, 4, 4\)"), ((1, 4, 4), "int8", "S32")],
    "halo_rows": [((8,), "int32", r"shape \(8, 4\)"), ((9, 4), "int32", r"shape \(8, 4\)")],
}
ATTRIBUTE_ERRORS = [
    ("kh", 0, "a number in 1 .."),
    ("kw", -3, "a number in 1 .."),
    ("kh", 2**62, "a number in 1 .."),
    ("kw", 5, "at least 3 x 5"),
    ("kw", 2, r"shape \("),
    ("stride", 0, "a number in 1 .."),
    ("stride", 2**40, "a number in 1 .."),
    ("stride", 2, r"shape \("),
    ("dilation", 0, "a number in 1 .."),
    ("dilation", 2, "at least 5 x 5"),
    ("dilation", 2**62, "a number in 1 .."),
    ("groups", 0, "1, or one channel a group"),
    ("groups", 2, "1, or one channel a group"),
    ("groups", 20, "1, or one channel a group"),
    ("activation", 3, "a number in 0 .. 2"),
    ("winograd", 2, "a number in 0 .. 1"),
    ("winograd", 1, r"shape \(3, 720, 16\)"),
    ("window", 0, "a number in 1 .."),
    ("window", 4, "at least 4 x 4"),
    ("block_size", 3, "a multiple of low_factor 2"),
    ("block_size", 0, "a number in 1 .."),
    ("block_size", 2**40, "a number in 1 .."),
    ("block_size", 6, r"shape \("),
    ("low_factor", 0, "a number >= 1"),
    ("low_factor", 2**62, "a multiple of"),
    ("padding", -1, "a number in 0 .."),
    ("padding", 2, r"shape \("),
    ("border", 3, "a number in 0 .. 2"),
]


@pytest.mark.parametrize("target", CALLS)
def test_valid_call_runs(target: str) -> None:
    results = CALLS[target].run(target)
    assert all(not result.any() for result in results) == (target != "segblocks_index_tables")


@pytest.mark.family(of=("target",))
@pytest.mark.parametrize(
    ("target", "name", "shape", "dtype", "expected"),
    [
        (target, name, *error)
        for target, call in CALLS.items()
        for name in call.operands | call.results
        for error in BUFFER_ERRORS[name]
    ],
)
def test_wrong_buffers(
    target: str, name: str, shape: tuple[int, ...], dtype: str, expected: str
) -> None:
    with pytest.raises(Exception, match=rf"(?s){target}: argument '\w+': got .*({expected})"):
        CALLS[target].spoiled(name, shape, dtype).run(target)


@pytest.mark.family(of=("target",))
@pytest.mark.parametrize(
    ("target", "name", "value", "expected"),
    [
        (target, name, value, expected)
        for target, call in CALLS.items()
        for name, value, expected in ATTRIBUTE_ERRORS
        if name in call.attributes
    ],
)
def test_wrong_attributes(target: str, name: str, value: int, expected: str) -> None:
    call = CALLS[target]
    spoiled = dataclasses.replace(call, attributes=call.attributes | {name: value})
    with pytest.raises(
        Exception, match=rf"(?s){target}: argument '\w+': got .*expected .*{expected}"
    ):
        spoiled.run(target)


def test_one_of_two_outputs_is_needed() -> None:
    target = "segblocks_indexed_conv"
    call = CALLS[target]
    for name in ("scale2", "bias2"):
        call = call.spoiled(name, (0,), "float32")
    for name in ("out", "out2"):
        call = call.spoiled(name, (0, 33), "float32")
    with pytest.raises(Exception, match=r"argument 'out': got .* at least one of"):
        call.run(target)


@pytest.mark.parametrize(
    ("replaced", "dtype"),
    [
        ({"kh": 2}, "float32"),
        ({"stride": 3}, "float32"),
        ({"groups": 20}, "bfloat16"),
    ],
)
def test_what_winograd_cannot_do(replaced: dict[str, int], dtype: str) -> None:
    call = Call(
        UNITS
        | {"rows": ((9, 20), dtype), "weights": ((2, 720, 16), dtype)}
        | dict.fromkeys(("scale", "bias"), ((0,), "float32"))
        | {"residual": ((0, 20), dtype)}
        | dict.fromkeys(("scale2", "bias2"), ((0,), "float32")),
        {"out": ((OUTPUTS, 20), dtype), "out2": ((0, 20), dtype), "halos": ((2, 20), dtype)},
        ATTRIBUTES | {"winograd": 1},
        COUNTS,
    )
    spoiled = dataclasses.replace(call, attributes=call.attributes | replaced)
    expected = "argument 'winograd': got 1, expected 0 for all but one group"
    with pytest.raises(Exception, match=expected):
        spoiled.run("segblocks_indexed_conv")


@pytest.mark.parametrize(
    ("dtype", "winograd", "weights", "expected"),
    [
        ("bfloat16", 1, ((3, 720, 16), "bfloat16"), "dtype F32"),
        ("bfloat16", 1, ((3, 144, 16, 2), "float32"), r"shape \(3, 720, 16\)"),
        ("float32", 0, ((3, 144, 16, 2), "float32"), r"shape \(3, 180, 16\)"),
        ("bfloat16", 0, ((3, 144, 16, 2), "float32"), "dtype BF16 like argument 'rows'"),
        ("bfloat16", 0, ((3, 90, 16, 2), "bfloat16"), r"shape \(3, 96, 16, 2\)"),
        ("bfloat16", 0, ((2, 96, 16, 2), "bfloat16"), r"shape \(3, 96, 16, 2\)"),
        ("bfloat16", 0, ((3, 96, 2, 16), "bfloat16"), r"shape \(3, 96, 16, 2\)"),
        ("bfloat16", 0, ((3, 96, 32), "bfloat16"), r"shape \(3, 180, 16\)"),
    ],
)
def test_weights_of_bfloat16(dtype: str, winograd: int, weights: Buffer, expected: str) -> None:
    """Three merged taps of 60 inputs, two steps each: 3 x 2 x 16 pairs."""
    call = CALLS["segblocks_indexed_conv"]
    for name in ("rows", "residual", "out", "out2", "halos"):
        shape, _ = (call.operands | call.results)[name]
        call = call.spoiled(name, shape, dtype)
    call = dataclasses.replace(call, attributes=call.attributes | {"winograd": winograd})
    with pytest.raises(Exception, match=expected):
        call.spoiled("weights", *weights).run("segblocks_indexed_conv")
    good = call.spoiled("weights", (3, 96, 16, 2), "bfloat16")
    if (dtype, winograd) == ("bfloat16", 0):
        good.run("segblocks_indexed_conv")


def int32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def one(shape: tuple[int, ...], position: int, value: int) -> np.ndarray:
    array = np.zeros(shape, np.int32)
    array.reshape(-1)[position] = value
    return array


INDEXED_DATA = [
    ("counts", int32(3, 3), "3 live units of argument 'high', expected a number in 0 .. 2"),
    ("counts", int32(0, -1), "-1 live units of argument 'low', expected a number in 0 .. 3"),
    ("high", one((2, 5, 6), 31, 11), "index 11 at position 31, expected an index in -1 .. 10"),
    ("high", one((2, 5, 6), 59, -2), "index -2 at position 59"),
    ("low", one((3, 3, 4), 35, 2**31 - 1), "index 2147483647 at position 35"),
    ("low", one((3, 3, 4), 0, -(2**31)), "index -2147483648 at position 0"),
    ("means", one((2, 4), 7, 9), "row 9 of halo 1, expected a row in 0 .. 8"),
    ("means", one((2, 4), 1, -1), "row -1 of halo 0"),
]
GRID_DATA = [
    ("slots", int32(0, 3, 1).reshape(1, 1, 3), "slot 3 in cell 1, expected a slot in 0 .. 2"),
    ("slots", int32(-1, 2, 1).reshape(1, 1, 3), "slot -1 in cell 0"),
    ("slots", int32(0, 2, 0).reshape(1, 1, 3), "cell 2 at position 1, expected the cell whose"),
    ("mask", ~MASK, "false in cell 0, expected true where"),
    ("high_cells", int32(0, 3), "cell 3 at position 1"),
    ("low_cells", int32(-1), "cell -1 at position 0"),
]


@pytest.mark.family(of=("target",))
@pytest.mark.parametrize(
    ("target", "name", "data", "expected"),
    [
        (target, *error)
        for target in CALLS
        for error in (GRID_DATA if target == "segblocks_index_tables" else INDEXED_DATA)
    ],
)
def test_wrong_data(target: str, name: str, data: np.ndarray, expected: str) -> None:
    if jax.default_backend() != "cpu":
        pytest.skip("only the CPU handlers read their data before they start")
    call = CALLS[target]
    spoiled = dataclasses.replace(call, data=call.data | {name: data})
    with pytest.raises(Exception, match=f"(?s){target}: argument '\\w+': got {expected}"):
        spoiled.run(target)


@pytest.mark.parametrize("target", sorted(CALLS.keys() - {"segblocks_index_tables"}))
def test_data_of_dead_units_and_unused_halos_is_not_read(target: str) -> None:
    wild = {
        "counts": int32(1, 2),
        "high": one((2, 5, 6), 30, 99),
        "low": one((3, 3, 4), 35, -7),
        "means": np.array([[-1, 99, 0, 0], [0, 0, 0, 0]], np.int32),
    }
    dataclasses.replace(CALLS[target], data=wild).run(target)


def shape_near(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
    """Another rank, or one axis of another length."""
    if not shape or rng.random() < 0.4:
        return tuple(int(n) for n in rng.integers(0, 7, rng.integers(0, 6)))
    axis = rng.integers(len(shape))
    length = int(rng.choice([0, 1, shape[axis] - 1, shape[axis] + 1, 2 * shape[axis]]))
    return (*shape[:axis], max(length, 0), *shape[axis + 1 :])


def spoil_anything(target: str, rng: np.random.Generator) -> Call:
    """A buffer's shape or dtype, an attribute, or the contents of an integer operand."""
    call = CALLS[target]
    kind = rng.integers(3)
    if kind == 0:
        buffers = call.operands | call.results
        name = str(rng.choice(list(buffers)))
        shape, dtype = buffers[name]
        if rng.random() < 0.5:
            return call.spoiled(name, shape_near(shape, rng), dtype)
        others = ["float32", "bfloat16", "float16", "int32", "int8", "uint32", "bool"]
        return call.spoiled(name, shape, str(rng.choice([x for x in others if x != dtype])))
    if kind == 1 and call.attributes:
        name = str(rng.choice(list(call.attributes)))
        value = int(rng.choice([-(2**63), -1, 0, 7, 2**31, 2**62, 2**63 - 1]))
        return dataclasses.replace(call, attributes=call.attributes | {name: value})
    integers = [name for name, (_, dtype) in call.operands.items() if dtype == "int32"]
    name = str(rng.choice(integers))
    array = call.data.get(name, np.zeros(call.operands[name][0], np.int32)).copy()
    limits = np.iinfo(np.int32)
    value = rng.choice([limits.min, -2, 100, limits.max])
    array.reshape(-1)[rng.integers(array.size)] = value
    return dataclasses.replace(call, data=call.data | {name: array})


@pytest.mark.slow
def test_a_thousand_random_malformed_calls() -> None:
    """Each gives an error that names its handler; what happens to be valid runs."""
    if jax.default_backend() != "cpu":
        pytest.skip("only the CPU handlers read their data before they start")
    rng = np.random.default_rng(0)
    errors = []
    for i in range(1000):
        target = list(CALLS)[i % len(CALLS)]
        call = spoil_anything(target, rng)
        try:
            results = call.run(target)
        except Exception as error:
            errors.append((target, str(error)))
        else:
            assert [r.shape for r in results] == [shape for shape, _ in call.results.values()]
    assert all(target in text for target, text in errors)
    assert len(errors) > 950
