"""Parse PTX text into ``ast.Module`` with the grammar in ``ptx.lark``."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from lark import Lark, Token, Transformer
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedInput, VisitError
from lark.tree import Meta

from gemmgen.emulator.ptx import ast
from gemmgen.errors import EmulationError

TYPE_BYTES = {"b128": 16, "b64": 8, "u64": 8, "s64": 8, "f64": 8, "b32": 4, "u32": 4, "s32": 4, "f32": 4, "f16x2": 4}
TYPE_BYTES |= {"bf16x2": 4, "b16": 2, "u16": 2, "s16": 2, "f16": 2, "bf16": 2, "b8": 1, "u8": 1, "s8": 1, "pred": 1}


def parse(text: str, filename: str = "<ptx>") -> ast.Module:
    """Parse a PTX module.

    Args:
        text: PTX as NVRTC writes it.
        filename: shown in errors.

    Raises:
        EmulationError: the text is not PTX, with ``filename:line:column``.
    """
    text = text.rstrip("\0 \n") + "\n"
    try:
        return _parser().parse(text)  # type: ignore[return-value]
    except UnexpectedInput as error:
        raise _syntax_error(error, text, filename) from None
    except VisitError as error:
        if isinstance(error.orig_exc, EmulationError):
            raise error.orig_exc from None
        raise
    except RecursionError:
        raise EmulationError("PTX is nested too deeply", where=filename) from None


@cache
def _parser() -> Lark:
    grammar = Path(__file__).with_name("ptx.lark").read_text()
    return Lark(
        grammar, start="module", parser="lalr", lexer="contextual", transformer=_Builder(), maybe_placeholders=False
    )


def _syntax_error(error: UnexpectedInput, text: str, filename: str) -> EmulationError:
    if isinstance(error, UnexpectedEOF) or error.line is None or error.line < 1:
        return EmulationError("PTX ends too early", where=filename, fix="pass the whole PTX file")
    lines = text.splitlines()
    source = lines[error.line - 1].strip() if error.line <= len(lines) else ""
    token = getattr(error, "token", None)
    if isinstance(token, Token) and token.type == "$END":
        return EmulationError("PTX ends too early", where=f"{filename}:{error.line}", fix="pass the whole PTX file")
    got = source[error.column - 1 :][:40] if isinstance(error, UnexpectedCharacters) else str(token)
    return EmulationError(
        "not PTX that the emulator knows",
        where=f"{filename}:{error.line}:{error.column}",
        got=f"{got!r} in {source[:120]!r}",
    )


def _integer(token: str) -> int:
    return int(token.rstrip("U"), 0) if not token.isdigit() else int(token)


class _Builder(Transformer):
    """Builds the tree bottom-up while the parser runs; method names are the grammar's rules."""

    def name(self, children: list[Token]) -> ast.Name:
        return ast.Name(str(children[0]))

    def integer(self, children: list[Token]) -> ast.Immediate:
        value = _integer(children[-1])
        return ast.Immediate(-value if children[0] == "-" else value)

    def float_bits(self, children: list[Token]) -> ast.Immediate:
        return ast.Immediate(int(children[0][2:], 16), "f32")

    def double_bits(self, children: list[Token]) -> ast.Immediate:
        return ast.Immediate(int(children[0][2:], 16), "f64")

    def float_number(self, children: list[Token]) -> ast.Immediate:
        import struct

        return ast.Immediate(struct.unpack("<Q", struct.pack("<d", float(children[0])))[0], "f64")

    def negated(self, children: list[Token]) -> ast.Negated:
        return ast.Negated(str(children[1]))

    def pair(self, children: list[Token]) -> ast.Pair:
        return ast.Pair(str(children[0]), str(children[1]))

    def vector(self, children: list[ast.Operand]) -> ast.Vector:
        return ast.Vector(tuple(children))

    def offset(self, children: list[Token]) -> int:
        value = _integer(children[-1])
        return -value if sum(sign == "-" for sign in children[:-1]) % 2 else value

    def address(self, children: list[Any]) -> ast.Address:
        offset = next((c for c in children[1:] if isinstance(c, int)), 0)
        coordinates = next((c for c in children[1:] if isinstance(c, ast.Vector)), None)
        return ast.Address(children[0], offset, coordinates)

    def guard(self, children: list[Token]) -> tuple[str, bool]:
        return str(children[-1]), len(children) == 2

    def instruction(self, children: list[Any]) -> ast.Instruction:
        guard, negated = (None, False)
        if isinstance(children[0], tuple):
            guard, negated = children.pop(0)
        opcode: Any = children[0]
        return ast.Instruction(str(opcode), tuple(children[1:]), guard, negated, opcode.line or 0)

    def label(self, children: list[Token]) -> ast.Label:
        return ast.Label(str(children[0]).rstrip(": \t"), children[0].line or 0)

    def register_name(self, children: list[Token]) -> tuple[str, int]:
        return str(children[0]), _integer(children[1]) if len(children) > 1 else 0

    def register_declaration(self, children: list[Any]) -> ast.RegisterDeclaration:
        return ast.RegisterDeclaration(children[0][1:], tuple(children[1:]), children[0].line)

    def location(self, children: list[Token]) -> ast.SourceLocation:
        numbers = [_integer(t) for t in children if t.type == "INT"]
        call_line = numbers[-2] if len(numbers) > 4 else numbers[1]
        return ast.SourceLocation(numbers[0], numbers[1], call_line)

    def block(self, children: list[Any]) -> ast.Block:
        statements = tuple(c for c in children if c is not None)
        first = next((s.line for s in statements if hasattr(s, "line")), 0)
        return ast.Block(statements, first)

    def empty(self, children: list[Any]) -> None:
        return None

    def pragma(self, children: list[Any]) -> None:
        return None

    def section(self, children: list[Any]) -> None:
        return None

    def number(self, children: list[Token]) -> int:
        token = children[-1]
        if token.type in ("FLOAT_BITS", "DOUBLE_BITS"):
            return int(token[2:], 16)
        if token.type == "FLOAT_NUMBER":
            raise EmulationError(
                "decimal initialisers are not supported", where=f"PTX line {token.line}", got=str(token)
            )
        value = _integer(token)
        return -value if children[0] == "-" else value

    def initializer_list(self, children: list[Any]) -> list[int]:
        flat: list[int] = []
        for child in children:
            flat += child if isinstance(child, list) else [child]
        return flat

    def align(self, children: list[Token]) -> tuple[str, int]:
        return "align", _integer(children[0])

    def pointer(self, children: list[Token]) -> tuple[str, int]:
        return "ptr", 0

    def array_size(self, children: list[Token]) -> tuple[str, int | None]:
        return "extent", _integer(children[0]) if children else None

    def visible(self, children: list[Any]) -> str:
        return "visible"

    def weak(self, children: list[Any]) -> str:
        return "weak"

    def common(self, children: list[Any]) -> str:
        return "common"

    def extern(self, children: list[Any]) -> str:
        return "extern"

    def variable(self, children: list[Any]) -> ast.Variable:
        tokens = {c.type: c for c in children if isinstance(c, Token)}
        attributes = [c for c in children if isinstance(c, tuple)]
        type_ = tokens["DATA_TYPE"][1:]
        align = next((v for k, v in attributes if k == "align"), TYPE_BYTES[type_])
        extents = tuple(v for k, v in attributes if k == "extent")
        initial = next((c for c in children if isinstance(c, (int, list))), None)
        values = None if initial is None else tuple(initial) if isinstance(initial, list) else (initial,)
        external = "extern" in [c for c in children if type(c) is str]
        name = tokens["NAME"]
        return ast.Variable(tokens["SPACE"][1:], type_, str(name), align, extents, values, external, name.line or 0)

    def param(self, children: list[Any]) -> ast.Param:
        tokens = {c.type: c for c in children if isinstance(c, Token)}
        attributes = dict(c for c in children if isinstance(c, tuple))
        type_ = tokens["DATA_TYPE"][1:]
        element = TYPE_BYTES[type_]
        size = element * (attributes["extent"] or 0) if "extent" in attributes else element
        return ast.Param(str(tokens["NAME"]), type_, size, max(element, attributes.get("align") or 0))

    def performance(self, children: list[Token]) -> tuple[str, tuple[int, ...]]:
        return children[0][1:], tuple(_integer(t) for t in children[1:])

    def entry(self, children: list[Any]) -> ast.Entry:
        name = next(c for c in children if isinstance(c, Token))
        params = tuple(c for c in children if isinstance(c, ast.Param))
        performance = dict(c for c in children if isinstance(c, tuple))
        return ast.Entry(str(name), params, performance, children[-1], name.line or 0)

    def version(self, children: list[Token]) -> tuple[str, str]:
        return "version", str(children[0])

    def target(self, children: list[Token]) -> tuple[str, str]:
        return "target", str(children[0])

    def address_size(self, children: list[Token]) -> None:
        if children[0] != "64":
            raise EmulationError(
                "only 64-bit PTX can run", where=f"PTX line {children[0].line}", got=str(children[0]), need="64"
            )

    def file(self, children: list[Token]) -> tuple[str, tuple[int, str]]:
        return "file", (_integer(children[0]), str(children[1]).strip('"'))

    def module(self, children: list[Any]) -> ast.Module:
        facts = [c for c in children if isinstance(c, tuple)]
        single: dict[str, Any] = dict(facts)
        for required in ("version", "target"):
            if required not in single:
                raise EmulationError(f"PTX has no .{required} directive", where="PTX line 1")
        entries = {c.name: c for c in children if isinstance(c, ast.Entry)}
        variables = tuple(c for c in children if isinstance(c, ast.Variable))
        files = dict(value for key, value in facts if key == "file")
        return ast.Module(single["version"], single["target"], entries, variables, files)


__all__ = ["TYPE_BYTES", "Meta", "parse"]
