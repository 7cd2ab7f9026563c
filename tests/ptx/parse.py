"""PTX's statements: instructions, in pieces that begin at labels and end at branches."""

import dataclasses
import re

# Ends a step, since a warp runs it together.
TOGETHER = {"bar", "barrier", "mma", "ldmatrix", "shfl", "vote", "activemask", "wgmma"}
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
