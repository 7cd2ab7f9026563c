"""PTX, as nvcc makes it of CUDA kernels, to C++ that emulator.h runs: `python -m ptx.translate FROM TO`."""

import pathlib
import re
import sys

from ptx.alone import Alone
from ptx.parse import REGISTER, Body, Piece, split
from ptx.together import Together


class Kernel(Alone, Together):
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
            products = piece.count(r"(mma|wgmma\.mma_async)\.")
            divisions = piece.count(r"(div|rem)\.[su]64")
            steps.append(f"{{step_{at}, {len(piece.instructions)}, {products}, {divisions}}}")
        offsets, sizes = (
            zip(*self.parameters.values(), strict=True) if self.parameters else ((), ())
        )
        local = max((o + n for o, n in self.body.local.values()), default=0)
        text += f'static Kernel kernel() {{\n return {{"{self.name}", {{{", ".join(steps)}}}, sizeof(R),'
        text += f" {local}, {self.shared_bytes}, {{{', '.join(map(str, sizes))}}},"
        return text + f" {{{', '.join(map(str, offsets))}}}, {self.max_threads}}};\n}}\n}}\n"


def kernels_of(text: str) -> list[Kernel]:
    """Returns the kernels of a file in PTX."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)
    shared = {
        name: (int(align), int(size or 0))
        for align, name, size in re.findall(r"\.shared \.align (\d+) \.b8 ([\w$]+)\[(\d*)\];", text)
    }
    # Assembler within a function may have a brace at a line's start, too.
    end = r"^\}(?=\s*(?:\Z|\.(?:entry|extern|func|global|shared|visible|weak)))"
    entry = re.compile(rf"\.entry ([\w$]+)\s*\((.*?)\)(.*?)^\{{(.*?){end}", re.S | re.M)
    return [Kernel(*match.groups(), shared) for match in entry.finditer(text)]


def translate(text: str) -> str:
    """Returns the C++ of all kernels of a file in PTX."""
    kernels = kernels_of(text)
    parts = ['#include "ptx/emulator.h"\n\nnamespace segblocks::ptx {\nnamespace {\n']
    parts += [kernel.cpp(i) for i, kernel in enumerate(kernels)]
    calls = ", ".join(f"kernel_{i}::kernel()" for i in range(len(kernels)))
    parts.append(f"const Registrar registrar({{{calls}}});\n}}\n}}\n")
    return "\n".join(parts)


def main(source: str, target: str) -> None:
    """Writes the target, if it changes."""
    text = translate(pathlib.Path(source).read_text())
    path = pathlib.Path(target)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
