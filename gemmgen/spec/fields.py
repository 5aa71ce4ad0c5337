"""What a field of the spec may hold. One object per field checks plain values, and describes itself to schema and docs.

``coerce`` turns what a user wrote (YAML or Python) into what the model stores; ``plain`` is its inverse.
"""

# ruff: noqa: D102 — the methods of fields are documented once, in Field

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gemmgen.errors import SpecError
from gemmgen.spec.vocabulary import AUTO, SCALE_BLOCKS


class FieldError(SpecError):
    """A value that a field refuses.

    Args:
        path: keys and list indices from the checked object down to the value.
        at_key: the key itself is wrong, not its value.
        offset: index of the offending character when the value is a text.
    """

    def __init__(
        self,
        what: str,
        *,
        path: Sequence[str | int] = (),
        at_key: bool = False,
        offset: int | None = None,
        got: object = None,
        need: object = None,
        fix: str | None = None,
    ) -> None:
        self.path = tuple(path)
        self.at_key = at_key
        self.offset = offset
        where = dotted(self.path) or "spec"
        if offset is not None:
            where += f":{offset + 1}"
        super().__init__(what, where=where, got=got, need=need, fix=fix)

    def under(self, *keys: str | int) -> FieldError:
        """The same error seen from an enclosing object."""
        return FieldError(
            self.what,
            path=(*keys, *self.path),
            at_key=self.at_key,
            offset=self.offset,
            got=self.got,
            need=self.need,
            fix=self.fix,
        )


def dotted(path: Iterable[str | int]) -> str:
    """``("schedule", "tile", 0)`` → ``schedule.tile.0``."""
    return ".".join(str(key) for key in path)


def shown(value: object) -> str:
    """A value as a spec's author would write it, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        text = "{" + ", ".join(f"{key}: {shown(item)}" for key, item in list(value.items())[:8]) + "}"
    elif isinstance(value, list | tuple):
        text = "[" + ", ".join(shown(item) for item in value[:8]) + "]"
    else:
        text = value if isinstance(value, str) and value.strip() else repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def nearest(word: object, words: Iterable[str]) -> str | None:
    """The legal word closest to what was written, ignoring case; None when nothing is close."""
    by_lower = {legal.lower(): legal for legal in words}
    close = difflib.get_close_matches(str(word).lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[close[0]] if close else None


class Field:
    """Base of all field kinds."""

    def coerce(self, value: object) -> Any:
        """The stored form of ``value``.

        Raises:
            FieldError: with a path relative to this field.
        """
        raise NotImplementedError

    def plain(self, value: Any) -> Any:
        """The YAML form of a stored value."""
        return value

    def schema(self) -> dict[str, Any]:
        """The JSON schema of what ``coerce`` accepts in YAML."""
        raise NotImplementedError

    def describe(self) -> str:
        """What is legal, in a few words."""
        raise NotImplementedError


@dataclass(frozen=True)
class Choice(Field):
    """One word of a closed list."""

    words: tuple[str, ...]

    def coerce(self, value: object) -> str:
        if isinstance(value, str) and value in self.words:
            return value
        close = nearest(value, self.words)
        fix = f"write {close or self.words[0]}" + (f" (did you mean {close}?)" if close else "")
        raise FieldError("not a legal word here", got=shown(value), need=self.describe(), fix=fix)

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.words)}

    def describe(self) -> str:
        return " | ".join(self.words)


@dataclass(frozen=True)
class Integer(Field):
    """An integer in a range, with a granularity."""

    low: int
    high: int
    multiple_of: int = 1

    def coerce(self, value: object) -> int:
        number = as_int(value)
        if number is None:
            raise FieldError("not an integer", got=shown(value), need=self.describe(), fix=f"write {self.low}")
        if self.low <= number <= self.high and number % self.multiple_of == 0:
            return number
        close = min(max(number, self.low), self.high)
        close = max(round(close / self.multiple_of) * self.multiple_of, self.low)
        raise FieldError(
            "not a legal number here",
            got=number,
            need=self.describe(),
            fix=f"write {min(close, self.high)}, the nearest legal value",
        )

    def schema(self) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "integer", "minimum": self.low, "maximum": self.high}
        return schema | ({"multipleOf": self.multiple_of} if self.multiple_of > 1 else {})

    def describe(self) -> str:
        if self.low == self.high:
            return str(self.low)
        step = f", multiple of {self.multiple_of}" if self.multiple_of > 1 else ""
        return f"integer {self.low}…{self.high}{step}"


@dataclass(frozen=True)
class Flag(Field):
    """``true`` or ``false``."""

    def coerce(self, value: object) -> bool:
        if isinstance(value, bool):
            return value
        yes = str(value).lower() in ("yes", "on", "1", "true")
        raise FieldError("not a flag", got=shown(value), need=self.describe(), fix=f"write {shown(yes)}")

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}

    def describe(self) -> str:
        return "true | false"


@dataclass(frozen=True)
class Identifier(Field):
    """A name that can become a C++ identifier."""

    pattern: str = r"^[a-z][a-z0-9_]{0,63}$"

    def coerce(self, value: object) -> str:
        if isinstance(value, str) and re.fullmatch(self.pattern, value):
            return value
        clean = re.sub(r"[^a-z0-9_]+", "_", str(value).lower()).strip("_0123456789")[:64] or "my_gemm"
        raise FieldError("not a name", got=shown(value), need=self.describe(), fix=f"write {clean}")

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": self.pattern}

    def describe(self) -> str:
        return "lower-case letters, digits and _, starting with a letter, at most 64"


@dataclass(frozen=True)
class Items(Field):
    """A list with one entry per name, for example ``[m, n, k]``."""

    names: tuple[str, ...]
    item: Field
    max_product: int | None = None

    def coerce(self, value: object) -> tuple[Any, ...]:
        values = _as_items(value, self)
        if len(values) != len(self.names):
            raise FieldError(
                "a list of the wrong length",
                got=shown(value),
                need=self.describe(),
                fix=f"give {len(self.names)} entries: [{', '.join(self.names)}]",
            )
        stored = tuple(_coerce_under(self.item, entry, index) for index, entry in enumerate(values))
        product = 1
        for number in stored:
            product *= number if isinstance(number, int) else 1
        if self.max_product is not None and product > self.max_product:
            raise FieldError(
                "the product is too large",
                got=shown(value),
                need=f"a product of at most {self.max_product}",
                fix="make an entry smaller",
            )
        return stored

    def plain(self, value: Any) -> list[Any]:
        return [self.item.plain(entry) for entry in value]

    def schema(self) -> dict[str, Any]:
        count = len(self.names)
        return {"type": "array", "items": self.item.schema(), "minItems": count, "maxItems": count}

    def describe(self) -> str:
        limit = f", product ≤ {self.max_product}" if self.max_product else ""
        return f"[{', '.join(self.names)}], each {self.item.describe()}{limit}"


@dataclass(frozen=True)
class Words(Field):
    """A non-empty list of distinct words of a closed list."""

    words: tuple[str, ...]

    def coerce(self, value: object) -> tuple[str, ...]:
        values = _as_items(value, self)
        if not values:
            raise FieldError("an empty list", got="[]", need=self.describe(), fix=f"write [{self.words[0]}]")
        stored = tuple(_coerce_under(Choice(self.words), entry, index) for index, entry in enumerate(values))
        for index, word in enumerate(stored):
            if word in stored[:index]:
                raise FieldError(
                    "a word given twice", path=(index,), got=word, need="distinct words", fix=f"remove one {word}"
                )
        return stored

    def plain(self, value: Any) -> list[str]:
        return list(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": {"enum": list(self.words)}, "minItems": 1, "uniqueItems": True}

    def describe(self) -> str:
        return f"list of {' | '.join(self.words)}"


@dataclass(frozen=True)
class ScaleBlock(Field):
    """The block of elements that share one scale: ``[mn, k]`` out of a closed list."""

    def coerce(self, value: object) -> tuple[int | str, int | str]:
        values = _as_items(value, self)
        block = tuple(entry if isinstance(entry, str) else as_int(entry) for entry in values)
        for legal in SCALE_BLOCKS:
            if block == legal:
                return legal
        text = shown(value)
        close = nearest(text, map(shown, SCALE_BLOCKS)) or "[1, 128]"
        raise FieldError("not a scale block", got=text, need=self.describe(), fix=f"write {close}")

    def plain(self, value: Any) -> list[int | str]:
        return list(value)

    def schema(self) -> dict[str, Any]:
        return {"enum": [list(block) for block in SCALE_BLOCKS]}

    def describe(self) -> str:
        return " | ".join(shown(block) for block in SCALE_BLOCKS)


@dataclass(frozen=True)
class Special(Field):
    """Another field that also knows words of its own, for example ``auto``, each stored as a given value."""

    inner: Field
    words: tuple[tuple[str | None, str | None], ...]

    def coerce(self, value: object) -> Any:
        for word, stored in self.words:
            if value is word or (isinstance(word, str) and value == word):
                return stored
        try:
            return self.inner.coerce(value)
        except FieldError as error:
            if error.path:
                raise
            raise FieldError(
                error.what, at_key=error.at_key, offset=error.offset, got=error.got, need=self.describe(), fix=error.fix
            ) from None

    def plain(self, value: Any) -> Any:
        for word, stored in self.words:
            if value is stored or (isinstance(stored, str) and value == stored):
                return word
        return self.inner.plain(value)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"enum": [word for word, _ in self.words]}, self.inner.schema()]}

    def describe(self) -> str:
        first_words = {stored: word for word, stored in reversed(self.words)}
        return " | ".join([*map(shown, reversed(first_words.values())), self.inner.describe()])


def auto(inner: Field) -> Special:
    """A field that may be left to the compiler: ``auto`` is stored as None."""
    return Special(inner, ((AUTO, None), (None, None)))


def optional(inner: Field) -> Special:
    """A field that may be ``null``."""
    return Special(inner, ((None, None),))


def as_int(value: object) -> int | None:
    """``value`` as an int if it is one (a NumPy integer counts, a bool does not)."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]  # TypeError is the answer for everything else
    except TypeError:
        return None


def _as_items(value: object, field: Field) -> list[Any]:
    if isinstance(value, list | tuple):
        return list(value)
    raise FieldError("not a list", got=shown(value), need=field.describe(), fix="write a list: [ … ]")


def _coerce_under(field: Field, value: object, key: str | int) -> Any:
    try:
        return field.coerce(value)
    except FieldError as error:
        raise error.under(key) from None
