"""What a compiled program moves, read from XLA's text of it.

XLA's own totals count the body of a loop once, however often it runs. Here every
instruction counts as often as the loops around it turn.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

_BYTES = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "s32": 4,
    "u32": 4, "s64": 8, "u64": 8, "f16": 2, "bf16": 2, "f32": 4, "f64": 8, "c64": 8,
    "c128": 16, "f8e4m3fn": 1, "f8e5m2": 1,
}  # fmt: skip

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = (.*)$")
# Between the type and the operands; types hold no lower-case word before a bracket but
# those of their layouts, such as T(8,128) and S(1).
_OPCODE = re.compile(r"(?<![\w.-])([a-z][a-z0-9-]*)\(")
_ARRAY = re.compile(r"([a-z]+[0-9]+[a-z0-9]*|pred)\[([0-9,]*)\](\{[^}]*\})?")
_TRIPS = re.compile(r'known_trip_count"?:\{"?n"?:"?(\d+)')
_CALLED = re.compile(
    r"(?:calls|to_apply|body)=%?([\w.-]+)|branch_computations=\{([^}]*)\}"
)
_CONDITION = re.compile(r"condition=%?([\w.-]+)")
_OPERAND = re.compile(r"%([\w.-]+)")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_WHERE = re.compile(r'op_name="([^"]*)"')
_IOTA_GROUPS = re.compile(
    r"replica_groups=\[([0-9,]+)\]<=\[([0-9,]+)\](?:T\(([0-9,]+)\))?"
)
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_LISTED_GROUPS = re.compile(r"(?:replica_groups|source_target_pairs)=\{\{([0-9,]*)\}")

# Kinds of collectives, and how often a device sends the (n - 1) / n that the n devices
# of a group lack of the whole array; as rings do it.
_SENT = {
    "all-gather": 1,
    "reduce-scatter": 1,
    "all-reduce": 2,
    "all-to-all": 1,
    "ragged-all-to-all": 1,
}
_PERMUTE = "collective-permute"
# What stands for an array and moves none of it, or calls what does.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "iota",
    "conditional", "call", "after-all", "partition-id", "replica-id", "opt-barrier",
    "async-start", "async-update",
}  # fmt: skip
_CALLERS = {"fusion", "call", "conditional", "async-start", "while"}
_SLICES = {"dynamic-slice", "slice", "gather"}
_UPDATE = "dynamic-update-slice"
# Of the types of what goes on beside other work, the place of the result; the rest are
# operands and contexts.
_RESULTS = {
    "copy-start": 0,
    "slice-start": 1,
    "dynamic-slice-start": 1,
    "all-gather-start": 1,
    "collective-permute-start": 1,
}


@dataclasses.dataclass(frozen=True)
class Collective:
    """An exchange between devices.

    Attributes:
      kind: 'all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all' or
        'collective-permute'.
      size: bytes of the whole array, as one device of a group has it before the
        exchange or after it, whichever is more.
      members: of the first of the groups that exchange with each other, the numbers of
        the devices in the mesh; of a permutation, the first pair.
      times: that it happens in a step.
      where: the function of the program that it belongs to.
      pairs: of a permutation, all of them.
    """

    kind: str
    size: int
    members: tuple[int, ...]
    times: int
    where: str
    pairs: tuple[tuple[int, ...], ...] = ()

    @property
    def devices(self) -> int:
        """In a group."""
        return len(self.members)

    @property
    def sent(self) -> float:
        """Bytes that a device sends in a step."""
        if self.kind == _PERMUTE:
            return float(self.size * self.times)
        share = (self.devices - 1) / self.devices
        return _SENT[self.kind] * self.size * share * self.times


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    opcode: str
    type: str
    rest: str  # operands and attributes
    is_root: bool = False


def collectives(text: str) -> list[Collective]:
    """Of a compiled program: `Compiled.as_text()`."""
    found: list[Collective] = []
    seen: set[tuple[str, str]] = set()
    for times, instruction in _Program(text).executed(True):
        kind = instruction.opcode.removesuffix("-start")
        if kind not in _SENT and kind != _PERMUTE:
            continue
        # One that is spread over several fusions has one channel, and is in all of them.
        channel = _CHANNEL.search(instruction.rest)
        if channel and 'chain_id="' in instruction.rest:
            if (kind, channel[1]) in seen:
                continue
            seen.add((kind, channel[1]))
        members = _members(instruction.rest)
        if len(members) < 2:
            continue
        where = _WHERE.search(instruction.rest)
        found.append(
            Collective(
                kind=kind,
                size=_whole(kind, instruction, len(members)),
                members=members,
                times=times,
                where=where[1] if where else "",
                pairs=_pairs(instruction.rest) if kind == _PERMUTE else (),
            )
        )
    return found


def memory_traffic(text: str) -> int:
    """Bytes that a device reads from and writes to its main memory in a step.

    Every instruction outside of fusions reads its operands and writes its result; of
    those of which it takes a slice, or writes one, just that. What the compiler keeps in
    memory near the cores (TPUs' `S(1)`) does not count.
    """
    program = _Program(text)
    return round(sum(times * program.moved(x) for times, x in program.executed(False)))


class _Program:
    """The instructions of a program's text, by computation."""

    def __init__(self, text: str):
        self.computations: dict[str, list[_Instruction]] = {}  # the entry's name is ''
        current: list[_Instruction] = []
        for line in text.splitlines():
            if not line.startswith(" "):
                heading = _COMPUTATION.match(line)
                if heading:
                    current = []
                    self.computations["" if heading[1] else heading[2]] = current
            elif instruction := _parse(line):
                current.append(instruction)
        self.instructions = {
            each.name: each for found in self.computations.values() for each in found
        }

    def executed(
        self, into_fusions: bool, name: str = "", times: int = 1
    ) -> Iterator[tuple[int, _Instruction]]:
        """-> how often it is executed, instruction, from a computation on."""
        for instruction in self.computations.get(name, ()):
            yield times, instruction
            opcode = instruction.opcode
            if opcode not in _CALLERS or (opcode == "fusion" and not into_fusions):
                continue
            called = _called(instruction)
            turns = times * (self._turns(instruction) if opcode == "while" else 1)
            for each in called:
                yield from self.executed(into_fusions, each, turns)

    def _turns(self, loop: _Instruction) -> int:
        """Of a loop that counts from 0; 1 where its text does not say."""
        if trips := _TRIPS.search(loop.rest):
            return int(trips[1])
        condition = _CONDITION.search(loop.rest)
        for each in self.computations.get(condition[1], ()) if condition else ():
            if each.opcode != "compare" or "direction=LT" not in each.rest:
                continue
            for operand in self.operands(each):
                value = re.match(r"(\d+)\)", operand.rest)
                if operand.opcode == "constant" and value:
                    return int(value[1])
        return 1

    def operands(self, instruction: _Instruction) -> list[_Instruction]:
        names = _OPERAND.findall(_operands(instruction.rest))
        return [self.instructions[name] for name in names if name in self.instructions]

    def moved(self, instruction: _Instruction) -> float:
        """Bytes of main memory that an instruction reads and writes."""
        opcode = instruction.opcode
        if (
            opcode in _FREE
            or opcode.endswith("-done")
            or 'custom_call_target="AllocateBuffer"' in instruction.rest
        ):
            return 0.0
        written = sum(map(_in_main_memory, _results(instruction)))
        operands = self.operands(instruction)
        if opcode.removesuffix("-start") in _SLICES:
            read = sum(size for size, _ in _results(instruction))
            return written + (read if _size(operands[0].type) else 0)
        if opcode == _UPDATE:
            return 2 * _size(operands[1].type)
        if opcode != "fusion":
            return written + sum(_size(each.type) for each in operands)
        inner = self._inside(instruction)
        given = self._roots(inner)
        # One that gives several arrays without a tuple, such as a sort, writes them whole.
        if len(given) == len(_results(instruction)):
            written = sum(
                min(_in_main_memory(array), self._new(root))
                for array, root in zip(_results(instruction), given, strict=True)
            )
        parameters = _parameters(inner)
        return written + sum(
            self._read(parameters.get(number), inner, _size(operand.type))
            for number, operand in enumerate(operands)
        )

    def _inside(self, fusion: _Instruction) -> list[_Instruction]:
        return [
            each for name in _called(fusion) for each in self.computations.get(name, ())
        ]

    def _roots(self, inner: Sequence[_Instruction]) -> list[_Instruction]:
        """What a fusion gives, array by array."""
        (root,) = (each for each in inner if each.is_root)
        return self.operands(root) if root.opcode == "tuple" else [root]

    def _new(self, given: _Instruction) -> float:
        """Of an array that a fusion gives, the bytes that it writes: of a stack that it
        adds to in place, what is added."""
        while given.opcode == "bitcast":
            (given,) = self.operands(given)
        if given.opcode == _UPDATE:
            return sum(size for size, _ in _arrays(self.operands(given)[1].type))
        place, fusion = 0, given
        if given.opcode == "get-tuple-element":
            (fusion,) = self.operands(given)
            place = int(re.findall(r"index=(\d+)", given.rest)[0])
        if fusion.opcode == "fusion":
            return self._new(self._roots(self._inside(fusion))[place])
        return math.inf

    def _read(
        self, parameter: _Instruction | None, inner: Sequence[_Instruction], size: float
    ) -> float:
        """Of a fusion's operand of that size, the part that is read."""
        if parameter is None or not size:
            return size
        names = {parameter.name}
        parts = 0.0
        for each in inner:  # in the order of their use
            operands = _OPERAND.findall(_operands(each.rest))
            if not names & set(operands):
                continue
            if each.opcode == "bitcast":
                names.add(each.name)
            elif each.opcode in _SLICES:
                parts += sum(part for part, _ in _arrays(each.type))
            elif each.opcode == _UPDATE and operands[0] in names:
                continue
            elif each.opcode == "fusion":
                nested = self._inside(each)
                parameters = _parameters(nested)
                parts += sum(
                    self._read(parameters.get(number), nested, size)
                    for number, name in enumerate(operands)
                    if name in names
                )
            else:
                return size
        return min(parts, size)


def _parse(line: str) -> _Instruction | None:
    found = _INSTRUCTION.match(line)
    opcode = _OPCODE.search(found[3]) if found else None
    if not found or not opcode:
        return None
    return _Instruction(
        name=found[2],
        opcode=opcode[1],
        type=found[3][: opcode.start()],
        rest=found[3][opcode.end() :],
        is_root=found[1] is not None,
    )


def _parameters(inner: Sequence[_Instruction]) -> dict[int, _Instruction]:
    """Of a fusion, by their numbers."""
    return {
        int(number[1]): each
        for each in inner
        if each.opcode == "parameter" and (number := re.match(r"(\d+)", each.rest))
    }


def _called(instruction: _Instruction) -> list[str]:
    """The computations that are executed with it."""
    called = []
    for one, several in _CALLED.findall(instruction.rest):
        called += [one] if one else _OPERAND.findall(several)
    return called


def _operands(rest: str) -> str:
    """Of what follows an opcode's bracket, all up to the one that closes it."""
    depth = 1
    for place, letter in enumerate(rest):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return rest[:place]
    return rest


def _arrays(type_: str) -> Iterator[tuple[float, str]]:
    """-> bytes, layout of each array of a type."""
    for dtype, shape, layout in _ARRAY.findall(type_):
        if dtype in _BYTES:
            sizes = [int(size) for size in shape.split(",") if size]
            yield _BYTES[dtype] * math.prod(sizes), layout


def _elements(type_: str) -> list[str]:
    """The types in a tuple's, one level down."""
    depth, parts = 0, [""]
    for letter in type_.strip():
        if letter in ")]}":
            depth -= 1
        if letter == "," and depth == 1:
            parts.append("")
        elif depth:
            parts[-1] += letter
        if letter in "([{":
            depth += 1
    return parts


def _results(instruction: _Instruction) -> list[tuple[float, str]]:
    """-> bytes, layout of each array that it makes."""
    type_, place = instruction.type, _RESULTS.get(instruction.opcode)
    return list(_arrays(type_ if place is None else _elements(type_)[place]))


def _in_main_memory(array: tuple[float, str]) -> float:
    size, layout = array
    return 0.0 if "S(" in layout else size


def _size(type_: str) -> float:
    """Bytes in main memory."""
    return sum(map(_in_main_memory, _arrays(type_)))


def _whole(kind: str, instruction: _Instruction, devices: int) -> int:
    total = sum(size for size, _ in _results(instruction))
    return round(total * devices if kind == "reduce-scatter" else total)


def _members(rest: str) -> tuple[int, ...]:
    """The first of the groups of devices, whichever way it is written."""
    if found := _IOTA_GROUPS.search(rest):
        groups, shape, order = (
            [int(x) for x in part.split(",") if x] for part in found.groups("")
        )
        devices = np.arange(math.prod(shape)).reshape(shape)
        devices = devices.transpose(order) if order else devices
        return tuple(devices.reshape(groups)[0].tolist())
    if found := _MESH_GROUPS.search(rest):
        return _members_in_mesh(found[1], found[2])
    if found := _LISTED_GROUPS.search(rest):
        return tuple(int(x) for x in found[1].split(",") if x)
    return ()


def _pairs(rest: str) -> tuple[tuple[int, ...], ...]:
    """Who sends to whom in a permutation."""
    listed = re.search(r"source_target_pairs=\{(\{[0-9,{}]*\})\}", rest)
    pairs = re.findall(r"\{(\d+),(\d+)\}", listed[1]) if listed else []
    return tuple((int(source), int(target)) for source, target in pairs)


def _members_in_mesh(axes: str, varying: str) -> tuple[int, ...]:
    """Of "'a'=4,'b'=2" and "'a':(2)2", the part of an axis after the first factor."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    strides, stride = {}, 1
    for name in reversed(sizes):
        strides[name] = stride
        stride *= sizes[name]
    members = np.zeros(1, int)
    for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", varying):
        count = int(size or sizes[name])
        step = strides[name] * sizes[name] // (int(before or 1) * count)
        members = (members[:, None] + step * np.arange(count)).ravel()
    return tuple(members.tolist())


def total_sent(found: Sequence[Collective]) -> float:
    """Bytes that a device sends in a step."""
    return sum(each.sent for each in found)
