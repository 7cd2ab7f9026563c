"""PTX, as nvcc makes it of CUDA kernels, to C++ that emulator.h runs: `translate.py FILE.ptx > FILE.cc`."""

import dataclasses
import pathlib
import re
import sys

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
# Ends a step, since a warp runs it together.
TOGETHER = {"bar", "barrier", "mma", "ldmatrix", "shfl", "vote", "activemask"}
NOTHING = {"membar", "fence", "griddepcontrol", "prefetch", "prefetchu", "nanosleep", "pragma"}
REGISTER = re.compile(r"%\w+(?:\.[xyz])?")


class UnknownInstruction(ValueError):
    """The translation doesn't know an instruction, or a form of it."""


@dataclasses.dataclass
class Instruction:
    """One instruction: `@guard name operands`."""

    name: str
    operands: list[str]
    guard: str  # "" or a C++ condition.

    @property
    def parts(self) -> list[str]:
        return self.name.split(".")


@dataclasses.dataclass
class Piece:
    """Straight code that lanes run by themselves, or one instruction that they run together."""

    instructions: list[Instruction]

    @property
    def together(self) -> bool:
        return self.instructions[0].parts[0] in TOGETHER

    def count(self, *patterns: str) -> int:
        return sum(any(re.match(p, i.name) for p in patterns) for i in self.instructions)


def split(text: str) -> list[str]:
    """At the commas outside of braces and brackets."""
    return [part.strip() for part in re.split(r",(?![^{\[]*[}\]])", text) if part.strip()]


class Body:
    """The statements of a kernel, its registers and its labels."""

    def __init__(self, text: str) -> None:
        self.registers: dict[str, str] = {}  # Their names in C++, with their types.
        self.local: dict[str, tuple[int, int]] = {}  # Arrays of a thread: offset and bytes.
        self.pieces: list[Piece] = []
        self.labels: dict[str, int] = {}
        scopes: list[dict[str, str]] = [{}]
        open_piece = False
        position = 0
        while match := re.compile(
            r"\s*(?:([{}])|([\w$%]+):(?!:)|([^;{}]*(?:\{[^;]*?\}[^;{}]*)*);)"
        ).match(text, position):
            position = match.end()
            brace, label, statement = match.groups()
            if brace == "{":
                scopes.append(dict(scopes[-1]))
            elif brace == "}":
                scopes.pop()
            elif label:
                self.labels[label] = len(self.pieces)
                open_piece = False
            elif statement.lstrip().startswith("."):
                self._declare(statement.strip(), scopes)
            else:
                instruction = self._instruction(statement.strip(), scopes[-1])
                together = instruction.parts[0] in TOGETHER
                if not open_piece or together:
                    self.pieces.append(Piece([]))
                self.pieces[-1].instructions.append(instruction)
                open_piece = not together and instruction.parts[0] not in ("bra", "ret", "exit")
        if text[position:].strip():
            raise UnknownInstruction(f"statement {text[position : position + 80].strip()!r}")

    def _declare(self, statement: str, scopes: list[dict[str, str]]) -> None:
        if match := re.match(r"\.reg \.(\w+)\s+(.*)", statement, re.S):
            kind, names = match.groups()
            bits = 1 if kind == "pred" else int(re.sub(r"\D", "", kind) or 0)
            stored = "bool" if kind == "pred" else f"uint{bits}_t"
            for name in split(names):
                if many := re.fullmatch(r"%(\w+)<(\d+)>", name):
                    for i in range(int(many[2])):
                        self.registers[f"{many[1]}{i}"] = stored
                    continue
                inner = name.lstrip("%")
                if len(scopes) > 1:
                    inner = scopes[-1][name] = f"{inner}_{len(self.registers)}"
                self.registers[inner] = stored
        elif match := re.match(r"\.local \.align (\d+) \.b8\s+(\w+)\[(\d+)\]", statement):
            align, size = int(match[1]), int(match[3])
            end = max((o + n for o, n in self.local.values()), default=0)
            self.local[match[2]] = ((end + align - 1) // align * align, size)
        elif not re.match(r"\.(pragma|loc|shared)\b", statement):
            raise UnknownInstruction(f"declaration {statement!r}")

    def _instruction(self, text: str, scope: dict[str, str]) -> Instruction:
        for name, inner in scope.items():
            text = re.sub(rf"(?<![\w%$.]){re.escape(name)}(?![\w$])", f"%{inner}", text)
        guard = ""
        if match := re.match(r"@(!?)%(\w+)\s+(.*)", text, re.S):
            guard, text = f"{match[1]}{{{match[2]}}}", match[3]
        name, rest = re.match(r"(\S+)\s*(.*)", text, re.S).groups()
        return Instruction(name, split(rest), guard)


class Kernel:
    """A kernel, and its translation."""

    def __init__(
        self, name: str, parameters: str, directives: str, body: str, shared: dict
    ) -> None:
        self.name = name
        self.body = Body(body)
        self.max_threads = 1024
        if match := re.search(r"\.maxntid (\d+)(?:, (\d+))?(?:, (\d+))?", directives):
            self.max_threads = int(match[1]) * int(match[2] or 1) * int(match[3] or 1)
        self.parameters: dict[str, tuple[int, int]] = {}  # Offset and bytes.
        end = 0
        for text in split(parameters):
            if match := re.search(r"\.align (\d+) \.b8 (\w+)\[(\d+)\]", text):
                align, key, size = int(match[1]), match[2], int(match[3])
            else:
                kind, key = re.search(r"\.param \.(\w+)(?: \.ptr[^,]*?)? (\w+)$", text).groups()
                align = size = int(kind[1:]) // 8
            start = (end + align - 1) // align * align
            self.parameters[key], end = (start, size), start + size
        # Arrays of fixed size, then the one that the launch decides on.
        self.shared: dict[str, int] = {}
        end = 0
        used = sorted(n for n in shared if re.search(rf"(?<![\w$]){re.escape(n)}(?![\w$])", body))
        for key in sorted(used, key=lambda n: shared[n][1] == 0):
            align, size = shared[key]
            start = (end + align - 1) // align * align
            self.shared[key], end = start, start + size
        self.shared_bytes = end
        self.pieces = self.body.pieces
        self.own = self._registers_of_pieces()

    def _registers_of_pieces(self) -> dict[str, int]:
        """Registers that live in one piece alone, and which."""
        home: dict[str, int | None] = {}
        for at, piece in enumerate(self.pieces):
            for instruction in piece.instructions:
                first = instruction.operands[0] if instruction.operands else ""
                stores = instruction.parts[0] in ("st", "bra", "red", "cp")
                text = instruction.guard.replace("{", "%").replace("}", "")
                text = " ".join([text, *instruction.operands])
                for token in REGISTER.findall(text):
                    name = token[1:]
                    if name not in self.body.registers:
                        continue
                    if name not in home:
                        begins = token in REGISTER.findall(first) and not first.startswith("[")
                        rest = " ".join(instruction.operands[1:])
                        begins = begins and token not in REGISTER.findall(rest)
                        plain = not (stores or instruction.guard or piece.together)
                        home[name] = at if begins and plain else None
                    elif home[name] != at:
                        home[name] = None
        return {name: at for name, at in home.items() if at is not None}

    # Operands.

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
            where = {"tid": "t.tid", "ntid": "t.grid->threads", "ctaid": "t.grid->block"}
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

    # Instructions that lanes run by themselves.

    def alone(self, instruction: Instruction) -> str:
        base = instruction.parts[0]
        special = getattr(self, f"_{base}", None)
        if base in NOTHING:
            return ""
        if special is not None:
            return special(instruction.parts[1:], instruction.operands)
        return self._arithmetic(instruction.parts, instruction.operands)

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
        text = f"auto* q = t.at<{ctype}, {count}{access}>(Space::k{space.capitalize()}, {self.address(where, space)});"
        for i, register in enumerate(registers):
            text += (
                f" q[{i}] = {self.value(register, kind)};"
                if store
                else (" " + self.put(register, kind, f"q[{i}]"))
            )
        return text

    _ldu = _ld

    def _st(self, parts: list[str], operands: list[str]) -> str:
        return self._ld(parts, operands, store=True)

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

    def _red(self, parts: list[str], operands: list[str]) -> str:
        return self._atom(parts, operands, result=False)

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

    def _shr(self, parts: list[str], operands: list[str]) -> str:
        return self._shl(parts, operands, "shr")

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

    def _clz(self, parts: list[str], operands: list[str]) -> str:
        return self._popc(parts, operands, "clz")

    def _arithmetic(self, parts: list[str], operands: list[str]) -> str:
        base, *modifiers, kind = parts if len(parts) > 1 else (*parts, "")
        result, name = kind, base
        known = {
            "add",
            "sub",
            "mul",
            "mad",
            "fma",
            "div",
            "rem",
            "neg",
            "abs",
            "min",
            "max",
            "rcp",
            "sqrt",
        }
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

    # Instructions that a warp runs together: code with `w`, the warp.

    def together(self, instruction: Instruction) -> str:
        if instruction.guard:
            raise UnknownInstruction(f"{instruction.name} under a condition")
        base, *parts = instruction.parts
        return getattr(self, f"_together_{base}")(parts, instruction.operands)

    def _together_bar(self, parts: list[str], operands: list[str]) -> str:
        if parts == ["warp", "sync"]:
            return "w.memory->meet({w.index}); w.go_on();"
        if parts not in (
            ["sync"],
            ["sync", "aligned"],
            ["cta", "sync"],
            ["cta", "sync", "aligned"],
        ):
            raise UnknownInstruction("bar." + ".".join(parts))
        if any(not re.fullmatch(r"\d+", o) for o in operands):
            raise UnknownInstruction(f"barrier {', '.join(operands)}")
        return f"w.wait_at({operands[0]}, {operands[1] if len(operands) > 1 else 0});"

    _together_barrier = _together_bar

    def _gather(self, name: str, operands: list[str], kind: str = "u32") -> str:
        """An array of operands of all lanes."""
        values = " ".join(
            f"{name}[{i}][l] = {self.value(o, kind)};" for i, o in enumerate(operands)
        )
        return f"Lanes {name}[{len(operands)}]{{}}; " + self._lanes(values)

    def _lanes(self, code: str) -> str:
        return (
            "for (int l = 0; l < w.lanes; ++l) { if (!(w.mask >> l & 1)) continue;"
            " [[maybe_unused]] R& r = w.of<R>(l); [[maybe_unused]] Thread& t = w.threads[l]; "
            + code
            + " }"
        )

    def _spread(self, name: str, operands: list[str]) -> str:
        """The reverse."""
        return self._lanes(
            " ".join(self.put(o, "u32", f"{name}[{i}][l]") for i, o in enumerate(operands))
        )

    def _together_mma(self, parts: list[str], operands: list[str]) -> str:
        match = re.fullmatch(
            r"sync\.aligned\.m16n8k16\.row\.col\.f32\.(b?f16)\.\1\.f32", ".".join(parts)
        )
        if match is None:
            raise UnknownInstruction("mma." + ".".join(parts))
        d, a, b, c = (split(o[1:-1]) for o in operands)
        text = (
            'w.want_all("mma"); '
            + self._gather("a", a)
            + self._gather("b", b)
            + self._gather("c", c)
        )
        half = str(match[1] == "f16").lower()
        return (
            text
            + f" Lanes d[4]; multiply(a, b, c, d, {half}); "
            + self._spread("d", d)
            + " w.go_on();"
        )

    def _together_ldmatrix(self, parts: list[str], operands: list[str]) -> str:
        registers = split(operands[0][1:-1])
        known = {"sync", "aligned", "m8n8", "trans", "shared", "shared::cta", "b16"}
        if set(parts) - known != {f"x{len(registers)}"}:
            raise UnknownInstruction("ldmatrix." + ".".join(parts))
        text = 'w.want_all("ldmatrix"); Lanes a; ' + self._lanes(
            f"a[l] = {self.address(operands[1], 'shared')};"
        )
        trans, count = str("trans" in parts).lower(), len(registers)
        text += f" Lanes d[{count}]; load_matrices(w, a, {count}, {trans}, d); "
        return text + self._spread("d", registers) + " w.go_on();"

    def _together_shfl(self, parts: list[str], operands: list[str]) -> str:
        if parts[0] != "sync" or parts[2:] != ["b32"]:
            raise UnknownInstruction("shfl." + ".".join(parts))
        to, *found = operands[0].split("|")
        text = self._gather("a", operands[1:4]) + " Lanes d[1]; bool p[kLanes];"
        text += f" shuffle(w, '{parts[1][0]}', a[0], a[1], a[2], d[0], p); " + self._spread(
            "d", [to]
        )
        if found:
            text += self._lanes(self.put(found[0], "pred", "p[l]"))
        return text + " w.go_on();"

    def _together_vote(self, parts: list[str], operands: list[str]) -> str:
        if parts[0] != "sync":
            raise UnknownInstruction("vote." + ".".join(parts))
        negated = "!" * operands[1].startswith("!")
        text = "uint32_t v = 0; "
        text += self._lanes(
            f"v |= uint32_t{{{negated}{self.value(operands[1].lstrip('!'), 'pred')}}} << l;"
        )
        kind = "b32" if parts[1] == "ballot" else "pred"
        result = {"ballot": "v", "any": "v != 0", "all": "v == w.mask"}[parts[1]]
        return text + self._lanes(self.put(operands[0], kind, result)) + " w.go_on();"

    def _together_activemask(self, parts: list[str], operands: list[str]) -> str:
        return self._lanes(self.put(operands[0], "b32", "w.mask")) + " w.go_on();"

    # The whole.

    def code(self, at: int, piece: Piece) -> str:
        if piece.together:
            return self.together(piece.instructions[0])
        own = [name for name, home in self.own.items() if home == at]
        lines = [f"  {self.body.registers[name]} {name}{{}};" for name in own]
        for instruction in piece.instructions:
            text = self.alone(instruction)
            guard = instruction.guard
            if guard:
                name = guard.strip("!{}")
                guard = f"if ({'!' * guard.startswith('!')}{self.place(name)}) "
            lines.append(f"  {guard}{{ {text} }}")
        end = piece.instructions[-1]
        if end.guard or end.parts[0] not in ("bra", "ret", "exit"):
            lines.append(f"  return {at + 1};")
        lines = "\n".join(lines)
        return (
            "w.each<R>([]([[maybe_unused]] R& r, [[maybe_unused]] Thread& t) -> int {\n"
            + lines
            + "\n});"
        )

    def cpp(self, index: int) -> str:
        fields = [f"  {t} {n};" for n, t in self.body.registers.items() if n not in self.own]
        text = f"// {self.name}\nnamespace kernel_{index} {{\n"
        # Wide ones first; a multiple of 8 bytes, so that they lie in an array of such.
        fields.sort(key=lambda f: -int("0" + re.sub(r"\D", "", f.split()[0])))
        text += "struct alignas(8) R {\n" + "\n".join(fields) + "\n};\n"
        steps = []
        for at, piece in enumerate(self.pieces):
            text += f"static void step_{at}(Warp& w) {{ {self.code(at, piece)} }}\n"
            products = piece.count(r"mma\.")
            divisions = piece.count(r"(div|rem)\.[su]64")
            steps.append(f"{{step_{at}, {len(piece.instructions)}, {products}, {divisions}}}")
        offsets, sizes = (
            zip(*self.parameters.values(), strict=True) if self.parameters else ((), ())
        )
        local = max((o + n for o, n in self.body.local.values()), default=0)
        text += f'static Kernel kernel() {{\n return {{"{self.name}", {{{", ".join(steps)}}}, sizeof(R),'
        text += f" {local}, {self.shared_bytes}, {{{', '.join(map(str, sizes))}}},"
        return text + f" {{{', '.join(map(str, offsets))}}}, {self.max_threads}}};\n}}\n}}\n"


def translate(text: str) -> str:
    """Returns the C++ of all kernels of a file in PTX."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)
    shared = {
        name: (int(align), int(size or 0))
        for align, name, size in re.findall(r"\.shared \.align (\d+) \.b8 ([\w$]+)\[(\d*)\];", text)
    }
    entry = re.compile(r"\.entry ([\w$]+)\s*\((.*?)\)(.*?)^\{(.*?)^\}", re.S | re.M)
    kernels = [Kernel(*match.groups(), shared) for match in entry.finditer(text)]
    parts = ['#include "ptx/emulator.h"\n\nnamespace segblocks::ptx {\nnamespace {\n']
    parts += [kernel.cpp(i) for i, kernel in enumerate(kernels)]
    calls = ", ".join(f"kernel_{i}::kernel()" for i in range(len(kernels)))
    parts.append(f"const Registrar registrar({{{calls}}});\n}}\n}}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(translate(pathlib.Path(sys.argv[1]).read_text()))
