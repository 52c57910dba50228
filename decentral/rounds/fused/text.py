"""A program as the text of a machine's loops, for LLVM: tile by tile of columns, row by row, once over memory.

    for each tile of columns:
        for each row i:
            rows of ``order`` that are ready now:    slot = what is mixed;  sum += what is averaged
            before row 0:                            sum = sum / rows
            row i:                                   read, mix from the slots, compute, write

Arithmetic is that of torch: each number alone, a + s b rounded once, mixing so from zero in the order of the terms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from llvmlite import ir

from decentral.rounds.fused.program import Node, Program

_INT, _LONG = ir.IntType(32), ir.IntType(64)
_AT_ONCE = 4  # vectors, so that one does not wait for the sums of another

PARAMETERS = (
    "arrays", "strides", "numbers", "slots", "pitch", "slots_a_mix", "sums", "ready_from", "ready", "into",
    "terms_from", "terms", "weights", "rows", "width", "tile",
)  # fmt: skip
"""Of the function ``fused``. ``arrays``: the first number of each input; ``strides``: numbers from row to row.
``slots``: rows of ``pitch`` numbers, ``slots_a_mix`` for each mixing; ``sums``: such a row for each mean."""

SIZES = ("pitch", "slots_a_mix", "rows", "width", "tile")
"""Those that are integers of 8 bytes; the others are addresses."""


def text_of(program: Program, itemsize: int) -> str:
    """The module with the function ``fused``, for numbers of 4 or 8 bytes."""
    return str(_Writer(program, itemsize).module)


class _Writer:
    def __init__(self, program: Program, itemsize: int) -> None:
        self.program, self.itemsize = program, itemsize
        self.number = ir.FloatType() if itemsize == 4 else ir.DoubleType()
        self.vector = ir.VectorType(self.number, 64 // itemsize)
        self.mixes, self.means = program.sources("mix"), program.sources("mean")
        self.module = ir.Module("fused")
        numbers, integers = self.number.as_pointer(), _INT.as_pointer()
        kinds = {
            "arrays": numbers.as_pointer(), "strides": _LONG.as_pointer(), "numbers": numbers, "slots": numbers,
            "sums": numbers, "weights": numbers, "ready_from": integers, "ready": integers, "into": integers,
            "terms_from": integers, "terms": integers,
        }  # fmt: skip
        kind = ir.FunctionType(ir.VoidType(), [kinds.get(name, _LONG) for name in PARAMETERS])
        function = ir.Function(self.module, kind, "fused")
        self.given = dict(zip(PARAMETERS, function.args, strict=True))
        self.b = ir.IRBuilder(function.append_basic_block())
        self.scalars = self._scalars()
        self._loop(_long(0), self.given["width"], self.given["tile"], self._tile)
        self.b.ret_void()

    def _scalars(self) -> dict[tuple[Any, int], Any]:
        """The program's numbers, for one column and for a vector of columns."""
        used = {node.of[-1] for node in self.program.nodes if node.kind in ("fma", "scale", "over")}
        single = {k: self.b.load(self.b.gep(self.given["numbers"], [_long(k)])) for k in sorted(used)}
        return {
            (kind, k): self.all(kind, v) for kind in (self.number, self.vector) for k, v in single.items()
        }

    def _loop(
        self, start: Any, stop: Any, step: Any, body: Callable[..., Sequence[Any]], *carried: Any
    ) -> list[Any]:
        """for k in range(start, stop, step): carried = body(k, *carried). What is carried in the end."""
        b, before = self.b, self.b.block
        head, inside, after = (b.append_basic_block() for _ in range(3))
        b.branch(head)
        b.position_at_end(head)
        phis = [b.phi(value.type) for value in (start, *carried)]
        b.cbranch(b.icmp_signed("<", phis[0], stop), inside, after)
        b.position_at_end(inside)
        left = body(*phis)
        for phi, first, following in zip(phis, (start, *carried), (b.add(phis[0], step), *left), strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(following, b.block)
        b.branch(head)
        b.position_at_end(after)
        return phis[1:]

    def _columns(self, body: Callable[[list[Any], Any], None]) -> None:
        """``body`` (columns, kind) for all columns of the tile: some vectors at a time, then one by one."""
        lanes, done = self.vector.count, _long(0)
        for step, kind in ((_AT_ONCE * lanes, self.vector), (lanes, self.vector), (1, self.number)):
            end = self.b.and_(self.width, _long(-step))
            self._loop(done, end, _long(step), partial(self._together, body, step, kind))
            done = end

    def _together(
        self, body: Callable[[list[Any], Any], None], step: int, kind: Any, c: Any
    ) -> Sequence[Any]:
        body([self.b.add(c, _long(k)) for k in range(0, step, getattr(kind, "count", 1))], kind)
        return ()

    def _tile(self, first: Any) -> Sequence[Any]:
        b, tile = self.b, self.given["tile"]
        rest = b.sub(self.given["width"], first)
        self.first, self.width = first, b.select(b.icmp_signed("<", rest, tile), rest, tile)
        if self.means:
            self._columns(self._clear)
        self._loop(_long(0), self.given["rows"], _long(1), self._row)
        return ()

    def _row(self, i: Any) -> Sequence[Any]:
        if self.mixes or self.means:
            self._loop(*self._span("ready_from", i), _long(1), self._ready)
        if self.means:
            once = self.b.zext(self.b.icmp_signed("==", i, _long(0)), _LONG)
            self._loop(_long(0), once, _long(1), self._divided)
        terms = self._span("terms_from", i) if self.mixes else []
        self._columns(partial(self._finish, self._inputs(i), terms))
        return ()

    def _clear(self, columns: list[Any], kind: Any) -> None:
        for k in range(len(self.means)):
            for c in columns:
                self.store(ir.Constant(kind, None), self._sum(k), c)

    def _ready(self, k: Any) -> Sequence[Any]:
        inputs, slot = self._inputs(self._integer("ready", k)), self._integer("into", k)
        self._columns(partial(self._put, inputs, slot))
        return ()

    def _put(self, inputs: list[Any], slot: Any, columns: list[Any], kind: Any) -> None:
        for c in columns:
            row = _Values(self, inputs, c, kind, {})
            for m, (_, source) in enumerate(self.mixes):
                self.store(row[source], self._slot(m, slot), c)
            for m, (_, source) in enumerate(self.means):
                self.store(self.b.fadd(self.load(self._sum(m), c, kind), row[source]), self._sum(m), c)

    def _divided(self, _: Any) -> Sequence[Any]:
        rows = self.b.sitofp(self.given["rows"], self.number)

        def divide(columns: list[Any], kind: Any) -> None:
            for m in range(len(self.means)):
                for c in columns:
                    mean = self.b.fdiv(self.load(self._sum(m), c, kind), self.all(kind, rows))
                    self.store(mean, self._sum(m), c)

        self._columns(divide)
        return ()

    def _finish(self, inputs: list[Any], terms: list[Any], columns: list[Any], kind: Any) -> None:
        pairs = [(m, c) for m in range(len(self.mixes)) for c in columns]

        def add_term(k: Any, *sums: Any) -> Sequence[Any]:
            slot, weight = self._integer("terms", k), self.all(kind, self._item("weights", k))
            rows = [self._slot(m, slot) for m in range(len(self.mixes))]
            return [
                self.fma(weight, self.load(rows[m], c, kind), one)
                for (m, c), one in zip(pairs, sums, strict=True)
            ]

        # torch's sums over float32 begin with 0, those over float64 with the first product
        zero = (
            ir.Constant(kind, None) if self.itemsize == 4 else self.all(kind, ir.Constant(self.number, -0.0))
        )
        sums = self._loop(*terms, _long(1), add_term, *[zero] * len(pairs)) if pairs else []
        rows = []
        for k, c in enumerate(columns):
            known = {node: sums[m * len(columns) + k] for m, (node, _) in enumerate(self.mixes)}
            known |= {node: self.load(self._sum(m), c, kind) for m, (node, _) in enumerate(self.means)}
            rows.append(_Values(self, inputs, c, kind, known))
        found = [[row[node] for _, node in self.program.writes] for row in rows]
        for c, values in zip(columns, found, strict=True):
            for (target, _), value in zip(self.program.writes, values, strict=True):
                self.store(value, inputs[target], c)

    def _span(self, ends: str, i: Any) -> list[Any]:
        return [self._integer(ends, k) for k in (i, self.b.add(i, _long(1)))]

    def _item(self, name: str, k: Any) -> Any:
        return self.b.load(self.b.gep(self.given[name], [k]))

    def _integer(self, name: str, k: Any) -> Any:
        return self.b.sext(self._item(name, k), _LONG)

    def _inputs(self, row: Any) -> list[Any]:
        """Where this row of each input begins, in this tile."""
        found = []
        for k in range(self.program.inputs):
            offset = self.b.add(self.b.mul(row, self._item("strides", _long(k))), self.first)
            found.append(self.b.gep(self._item("arrays", _long(k)), [offset]))
        return found

    def _slot(self, mix: int, slot: Any) -> Any:
        place = self.b.add(slot, self.b.mul(_long(mix), self.given["slots_a_mix"]))
        return self.b.gep(self.given["slots"], [self.b.mul(place, self.given["pitch"])])

    def _sum(self, mean: int) -> Any:
        return self.b.gep(self.given["sums"], [self.b.mul(_long(mean), self.given["pitch"])])

    def all(self, kind: Any, number: Any) -> Any:
        """A number, in all lanes where ``kind`` is a vector."""
        if kind == self.number:
            return number
        one = self.b.insert_element(ir.Constant(kind, ir.Undefined), number, ir.Constant(_INT, 0))
        return self.b.shuffle_vector(one, one, ir.Constant(ir.VectorType(_INT, kind.count), None))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """a b + c, rounded once."""
        name = "llvm.fma." + (f"v{a.type.count}" if a.type == self.vector else "") + f"f{8 * self.itemsize}"
        if name not in self.module.globals:
            ir.Function(self.module, ir.FunctionType(a.type, [a.type] * 3), name)
        return self.b.call(self.module.globals[name], [a, b, c])

    def load(self, row: Any, c: Any, kind: Any) -> Any:
        return self.b.load(self._place(row, c, kind), align=self.itemsize)

    def store(self, value: Any, row: Any, c: Any) -> None:
        self.b.store(value, self._place(row, c, value.type), align=self.itemsize)

    def _place(self, row: Any, c: Any, kind: Any) -> Any:
        return self.b.bitcast(self.b.gep(row, [c]), kind.as_pointer())


class _Values:
    """The values of nodes at one place of a row, each written down when it is first asked for."""

    def __init__(self, writer: _Writer, inputs: list[Any], c: Any, kind: Any, known: dict[int, Any]) -> None:
        self.writer, self.inputs, self.c, self.kind, self.known = writer, inputs, c, kind, known

    def __getitem__(self, node: int) -> Any:
        if node not in self.known:
            self.known[node] = self._written(self.writer.program.nodes[node])
        return self.known[node]

    def _written(self, node: Node) -> Any:
        b, what, of = self.writer.b, node.kind, node.of
        if what == "in":
            return self.writer.load(self.inputs[of[0]], self.c, self.kind)
        if what == "fma":
            return self.writer.fma(self[of[1]], self.writer.scalars[self.kind, of[2]], self[of[0]])
        combine = b.fmul if what in ("mul", "scale") else b.fdiv
        second = self[of[1]] if what in ("mul", "div") else self.writer.scalars[self.kind, of[1]]
        return combine(self[of[0]], second)


def _long(value: int) -> Any:
    return ir.Constant(_LONG, value)
