"""Instructions that lanes run by themselves, in C++: `r` has the registers, `t` is the thread."""

import functools
import re

from ptx.operands import TYPES, Operands
from ptx.parse import Instruction, UnknownInstruction, split

SPACES = {"global", "shared", "local", "param"}
COMPARISONS = {
    **{"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="},
    **{"lo": "<", "ls": "<=", "hi": ">", "hs": ">="},
}
ROUNDING = {
    **{"rni": "kNearest", "rzi": "kZero", "rmi": "kDown", "rpi": "kUp"},
    **{"rn": "kNone", "rz": "kNone"},
}
# What doesn't change a result here.
IGNORED = {"lo", "rn", "ftz", "approx", "full", "uni", "rnd", "wrap", "to", "sync", "aligned"}
NOTHING = {"membar", "griddepcontrol", "prefetch", "prefetchu", "nanosleep", "pragma"}


class Alone(Operands):
    """A method for each instruction, and `_arithmetic` for those that are functions of their operands."""

    def alone(self, instruction: Instruction) -> str:
        base = instruction.parts[0]
        special = getattr(self, f"_{base}", None)
        if base in NOTHING:
            return ""
        if special is not None:
            return special(instruction.parts[1:], instruction.operands)
        return self._arithmetic(instruction.parts, instruction.operands)

    def _fence(self, parts: list[str], operands: list[str]) -> str:
        return "t.memory->fence_proxy(t.index);" if parts[:2] == ["proxy", "async"] else ""

    def _bra(self, parts: list[str], operands: list[str]) -> str:
        return f"return {self.body.labels[operands[0]]};"

    def _ret(self, parts: list[str], operands: list[str]) -> str:
        return "return kExit;"

    _exit = _ret

    def _trap(self, parts: list[str], operands: list[str]) -> str:
        return 't.memory->fail("trap", t.index);'

    def _ld(self, parts: list[str], operands: list[str], store: bool = False) -> str:
        data, where = operands[:2] if not store else operands[1::-1]
        spaces = [p for p in parts if p.partition("::")[0] in SPACES]
        space = spaces[0].partition("::")[0] if spaces else "generic"
        kind = parts[-1]
        registers = split(data[1:-1]) if data.startswith("{") else [data]
        count = next((int(p[1:]) for p in parts if re.fullmatch(r"v\d", p)), 1)
        if count != len(registers):
            raise UnknownInstruction(f"{'.'.join(parts)} of {data}")
        ctype = TYPES[kind]
        access = ", Access::kStore" if store else ""
        place = f"Space::k{space.capitalize()}, {self.address(where, space)}"
        text = f"auto* q = t.at<{ctype}, {count}{access}>({place});"
        for i, register in enumerate(registers):
            text += (
                f" q[{i}] = {self.value(register, kind)};"
                if store
                else (" " + self.put(register, kind, f"q[{i}]"))
            )
        return text

    _ldu = _ld

    _st = functools.partialmethod(_ld, store=True)

    def _atom(self, parts: list[str], operands: list[str], result: bool = True) -> str:
        kind = parts[-1]
        ctype = TYPES[kind]
        operation = next(
            p for p in parts if p in ("add", "max", "min", "and", "or", "xor", "exch", "cas")
        )
        space = next((p for p in parts if p in SPACES), "generic").capitalize()
        to, (where, *values) = (operands[0], operands[1:]) if result else ("_", operands)
        values = [self.value(v, kind) for v in values]
        new = {"exch": values[0], "cas": f"old == {values[0]} ? {values[-1]} : old"}.get(
            operation,
            f"{operation}{'_' if operation in ('and', 'or', 'xor') else ''}<{ctype}>(old, {values[0]})",
        )
        place = f"t.at<{ctype}, 1, Access::kAtomic>(Space::k{space}, {self.address(where, space)})"
        return f"auto* q = {place}; const {ctype} old = *q; *q = {new}; {self.put(to, kind, 'old')}"

    _red = functools.partialmethod(_atom, result=False)

    def _cp(self, parts: list[str], operands: list[str]) -> str:
        if parts[:1] != ["async"] or "bulk" in parts or "mbarrier" in parts:
            raise UnknownInstruction("cp." + ".".join(parts))
        if "commit_group" in parts:
            return "t.commit_copies();"
        if "wait_group" in parts:
            return f"t.wait_for_copies({operands[0]});"
        if "wait_all" in parts:
            return "t.commit_copies(); t.wait_for_copies(0);"
        to, source, size, *rest = operands
        read = self.value(rest[0], "u32") if rest else size
        to, source = self.address(to, "shared"), self.address(source, "global")
        return f"t.copy_async(static_cast<uint32_t>({to}), {source}, {size}, {read});"

    def _mapa(self, parts: list[str], operands: list[str]) -> str:
        address, block = (self.value(o, "u32") for o in operands[1:])
        if parts != ["shared::cluster", "u32"]:
            raise UnknownInstruction("mapa." + ".".join(parts))
        value = f"t.memory->shared_of({block}, {address}, t.index)"
        return self.put(operands[0], "u32", value)

    def _mov(self, parts: list[str], operands: list[str]) -> str:
        to, source = operands
        kind = parts[-1]
        if source.startswith("{"):
            halves = split(source[1:-1])
            bits = int(kind[1:]) // len(halves)
            terms = [
                f"uint{kind[1:]}_t{{{self.value(h, f'u{bits}')}}} << {bits * i}"
                for i, h in enumerate(halves)
            ]
            return self.put(to, kind, f"static_cast<{TYPES[kind]}>({' | '.join(terms)})")
        if to.startswith("{"):
            halves = split(to[1:-1])
            bits = int(kind[1:]) // len(halves)
            text = f"const {TYPES[kind]} q = {self.value(source, kind)};"
            for i, half in enumerate(halves):
                text += " " + self.put(
                    half, f"u{bits}", f"static_cast<uint{bits}_t>(q >> {bits * i})"
                )
            return text
        return self.put(to, kind, self.value(source, kind))

    def _cvta(self, parts: list[str], operands: list[str]) -> str:
        value = self.value(operands[1], parts[-1])
        if "shared" in parts:
            value += f" {'-' if parts[0] == 'to' else '+'} t.memory->shared_window()"
        return self.put(operands[0], parts[-1], value)

    def _cvt(self, parts: list[str], operands: list[str]) -> str:
        to, source = parts[-2:]
        modifiers = set(parts[:-2])
        rounding = next((ROUNDING[m] for m in parts if m in ROUNDING), "kNone")
        if to in ("bf16x2", "f16x2") and source == "f32":
            half = TYPES[to.removesuffix("x2")]
            high, low = (self.value(o, "f32") for o in operands[1:3])
            return self.put(operands[0], to, f"Pair<{half}>{{{half}({low}), {half}({high})}}")
        value = f"cvt<{TYPES[to]}, Round::{rounding}>({self.value(operands[1], source)})"
        if "sat" in modifiers and to == "f32":
            value = f"std::fmin(std::fmax({value}, 0.0f), 1.0f)"
        elif "sat" in modifiers or modifiers - set(ROUNDING) - {"ftz"}:
            raise UnknownInstruction("cvt." + ".".join(parts))
        return self.put(operands[0], to, value)

    def _setp(self, parts: list[str], operands: list[str]) -> str:
        comparison, kind = parts[0], parts[-1]
        extra = [p for p in parts[1:-1] if p != "ftz"]
        a, b = (self.value(o, kind) for o in operands[1:3])
        unordered = f"(is_nan({a}) || is_nan({b}))"
        if comparison in ("num", "nan"):
            text = unordered if comparison == "nan" else "!" + unordered
        elif comparison in COMPARISONS:
            text = f"({a} {COMPARISONS[comparison]} {b})"
            if comparison == "ne":  # Of floats an ordered one.
                text = f"(!{unordered} && {text})"
        elif comparison.removesuffix("u") in COMPARISONS:
            text = f"({unordered} || {a} {COMPARISONS[comparison.removesuffix('u')]} {b})"
        else:
            raise UnknownInstruction("setp." + ".".join(parts))
        if extra:
            operator = {"and": "&&", "or": "||", "xor": "!="}[extra[0]]
            other = operands[3]
            negated = other.startswith("!")
            condition = f"{'!' * negated}{self.value(other.lstrip('!'), 'pred')}"
            text = f"({text} {operator} {condition})"
            if "|" in operands[0]:
                raise UnknownInstruction("setp." + ".".join(parts))
        to, *second = operands[0].split("|")
        text = f"const bool q = {text}; {self.put(to, 'pred', 'q')}"
        return text + (f" {self.put(second[0], 'pred', '!q')}" if second else "")

    def _selp(self, parts: list[str], operands: list[str]) -> str:
        a, b = (self.value(o, parts[-1]) for o in operands[1:3])
        return self.put(operands[0], parts[-1], f"{self.value(operands[3], 'pred')} ? {a} : {b}")

    def _lop3(self, parts: list[str], operands: list[str]) -> str:
        a, b, c, table = (self.value(o, "u32") for o in operands[1:5])
        return self.put(operands[0], "u32", f"lop3({a}, {b}, {c}, {table})")

    def _prmt(self, parts: list[str], operands: list[str]) -> str:
        a, b, choice = (self.value(o, "u32") for o in operands[1:4])
        return self.put(operands[0], "u32", f"prmt({a}, {b}, {choice})")

    def _shf(self, parts: list[str], operands: list[str]) -> str:
        low, high, n = (self.value(o, "u32") for o in operands[1:4])
        n = f"({n} & 31)" if "wrap" in parts else f"std::min<uint32_t>({n}, 32)"
        return self.put(operands[0], "u32", f"shf_{parts[0]}({low}, {high}, {n})")

    def _shl(self, parts: list[str], operands: list[str], name: str = "shl") -> str:
        a, n = self.value(operands[1], parts[-1]), self.value(operands[2], "u32")
        return self.put(operands[0], parts[-1], f"{name}<{TYPES[parts[-1]]}>({a}, {n})")

    _shr = functools.partialmethod(_shl, name="shr")

    def _bfe(self, parts: list[str], operands: list[str]) -> str:
        a, first, bits = (
            self.value(operands[1], parts[-1]),
            *(self.value(o, "u32") for o in operands[2:]),
        )
        return self.put(operands[0], parts[-1], f"bfe<{TYPES[parts[-1]]}>({a}, {first}, {bits})")

    def _bfi(self, parts: list[str], operands: list[str]) -> str:
        kind = parts[-1]
        a, b = (self.value(o, kind) for o in operands[1:3])
        first, bits = (self.value(o, "u32") for o in operands[3:])
        return self.put(operands[0], kind, f"bfi<{TYPES[kind]}>({a}, {b}, {first}, {bits})")

    def _popc(self, parts: list[str], operands: list[str], name: str = "popc") -> str:
        value = self.value(operands[1], parts[-1])
        return self.put(operands[0], "u32", f"{name}<{TYPES[parts[-1]]}>({value})")

    _clz = functools.partialmethod(_popc, name="clz")

    def _arithmetic(self, parts: list[str], operands: list[str]) -> str:
        base, *modifiers, kind = parts if len(parts) > 1 else (*parts, "")
        result, name = kind, base
        known = {"add", "sub", "mul", "mad", "fma", "div", "rem"}
        known |= {"neg", "abs", "min", "max", "rcp", "sqrt"}
        known |= {"rsqrt", "ex2", "lg2", "and", "or", "xor", "not", "brev"}
        left = [m for m in modifiers if m not in IGNORED]
        kinds = [kind] * (len(operands) - 1)
        if left == ["wide"]:
            result = f"{kind[0]}{2 * int(kind[1:])}"
            name += "_wide"
            kinds[2:] = [result] * len(kinds[2:])
        elif left in (["hi"], ["NaN"]):
            name += f"_{left[0].lower()}"
        elif left and not (left == ["rz"] and base in ("div", "rcp")):
            raise UnknownInstruction(".".join(parts))
        if base not in known:
            raise UnknownInstruction(".".join(parts))
        if base in ("and", "or", "xor", "not"):
            name += "_"
        values = ", ".join(self.value(o, k) for o, k in zip(operands[1:], kinds, strict=True))
        return self.put(operands[0], result, f"{name}<{TYPES[kind]}>({values})")
