"""Operands of PTX as expressions of C++."""

import re

from ptx.parse import Body, UnknownInstruction

TYPES = {
    **{
        f"{kind}{bits}": f"{'u' * (kind != 's')}int{bits}_t"
        for kind in "sub"
        for bits in (8, 16, 32, 64)
    },
    "f16": "F16",
    "bf16": "BF16",
    "f16x2": "Pair<F16>",
    "bf16x2": "Pair<BF16>",
    "f32": "float",
    "f64": "double",
    "pred": "bool",
}


class Operands:
    """What operands mean within a kernel.

    Attributes:
        body: its statements.
        parameters: the offset and the bytes of each.
        shared: the offsets of its arrays in shared memory.
        own: the registers that live in one piece alone, and in which.
    """

    body: Body
    parameters: dict[str, tuple[int, int]]
    shared: dict[str, int]
    own: dict[str, int]

    def place(self, register: str) -> str:
        name = register.lstrip("%")
        if name not in self.body.registers:
            raise UnknownInstruction(f"register {register}")
        return name if name in self.own else f"r.{name}"

    def value(self, operand: str, kind: str) -> str:
        """A C++ expression of the operand as a type of PTX."""
        ctype = TYPES[kind]
        if operand in ("%laneid",):
            return f"static_cast<{ctype}>(t.index % kLanes)"
        if match := re.fullmatch(r"%(tid|ntid|ctaid|nctaid)\.([xyz])", operand):
            where = {"tid": "t.tid", "ntid": "t.grid->threads", "ctaid": "t.block"}
            return f"static_cast<{ctype}>({where.get(match[1], 't.grid->blocks')}.{match[2]})"
        if operand.startswith("%"):
            return f"as<{ctype}>({self.place(operand)})"
        if match := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})", operand):
            return f"as<{ctype}>(uint32_t{{0x{match[1]}u}})"
        if match := re.fullmatch(r"0[dD]([0-9a-fA-F]{16})", operand):
            return f"as<{ctype}>(uint64_t{{0x{match[1]}ull}})"
        if re.fullmatch(r"-?(\d+|0[xX][0-9a-fA-F]+)U?", operand):
            number = int(operand.rstrip("U"), 0) % 2**64
            return (
                f"as<{ctype}>(uint64_t{{{number}u}})"
                if ctype != "bool"
                else str(bool(number)).lower()
            )
        return f"static_cast<{ctype}>({self.symbol(operand)})"

    def symbol(self, name: str) -> str:
        if name in self.parameters:
            return f"(t.memory->params() + {self.parameters[name][0]})"
        if name in self.shared:
            return f"uint64_t{{{self.shared[name]}}}"
        if name in self.body.local:
            return f"(t.local_address() + {self.body.local[name][0]})"
        raise UnknownInstruction(f"symbol {name}")

    def address(self, operand: str, space: str) -> str:
        base, sign, offset = re.fullmatch(
            r"\[\s*([%\w$.]+)\s*(?:([+-]+)\s*(\w+))?\s*\]", operand
        ).groups()
        moved = f" {'-' if sign == '-' or sign == '+-' else '+'} {int(offset, 0)}" if offset else ""
        if not base.startswith("%"):
            value = self.symbol(base) if not re.fullmatch(r"\d+", base) else f"uint64_t{{{base}}}"
            return value + moved
        stored = self.body.registers[base[1:]]
        value = f"{self.place(base)}{moved}"
        return f"static_cast<uint32_t>({value})" if stored == "uint32_t" else value

    def put(self, to: str, kind: str, expression: str) -> str:
        return "" if to == "_" else f"put<{TYPES[kind]}>({self.place(to)}, {expression});"
