"""Instructions that the lanes of a warp run together, in C++: `w` is the warp."""

import re

from ptx.operands import Operands
from ptx.parse import Instruction, UnknownInstruction, split


class Together(Operands):
    """A method for each instruction."""

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

    def _together_barrier(self, parts: list[str], operands: list[str]) -> str:
        if parts == ["cluster", "arrive", "release", "aligned"]:
            return "w.arrive_at_cluster();"
        if parts == ["cluster", "wait", "acquire", "aligned"]:
            return "w.wait_for_cluster();"
        return self._together_bar(parts, operands)

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

    def _together_wgmma(self, parts: list[str], operands: list[str]) -> str:
        form = ".".join(parts)
        simple = {
            "fence.sync.aligned": "w.fence_registers();",
            "commit_group.sync.aligned": "w.commit_products();",
            "wait_group.sync.aligned": f"w.wait_for_products({''.join(operands)});",
        }
        if form in simple:
            return simple[form] + " w.go_on();"
        match = re.fullmatch(r"mma_async\.sync\.aligned\.m64n(\d+)k16\.f32\.bf16\.bf16", form)
        if match is None:
            raise UnknownInstruction(f"wgmma.{form}")
        left, right, add, *signs = operands[1:]
        transposed = ["0", *signs[2:]] if left.startswith("{") else signs[2:]
        sums = split(operands[0][1:-1])
        if len(sums) != int(match[1]) // 2 or signs[:2] != ["1", "1"]:
            raise UnknownInstruction(f"wgmma.{form} of {len(sums)} sums, {', '.join(signs)}")

        def offsets(registers: list[str]) -> str:
            if any(self.body.registers[r[1:]] != "uint32_t" for r in registers):
                raise UnknownInstruction(f"wgmma.{form} of {registers}")
            places = (self.place(r).removeprefix("r.") for r in registers)
            return f"{{{', '.join(f'offsetof(R, {p})' for p in places)}}}"

        def halves(name: str, descriptor: str) -> str:
            value = self.value(descriptor, "u64")
            return f"p.{name}[0][l] = {value}; p.{name}[1][l] = {value} >> 32;"

        code = f"p.adds[l] = {self.value(add, 'pred')}; " + halves("right_words", right)
        text = f"GroupProduct p{{}}; p.sums = {offsets(sums)};"
        if left.startswith("{"):
            text += f" p.left = {offsets(split(left[1:-1]))};"
        else:
            code += halves("left_words", left)
        for name, value in zip(("left", "right"), transposed, strict=True):
            text += f" p.{name}_transposed = {value};"
        return text + self._lanes(code) + " multiply_async(w, p); w.go_on();"

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
