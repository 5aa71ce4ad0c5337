"""Reading specs: from a file, from text, from a mapping, with ``extends`` composed and every error positioned."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gemmgen.errors import SpecError
from gemmgen.resources import resource_dir
from gemmgen.spec.fields import FieldError, Integer, dotted, nearest, shown
from gemmgen.spec.frozen_map import FrozenMap
from gemmgen.spec.model import GemmSpec
from gemmgen.spec.vocabulary import SPEC_VERSION

MAX_EXTENDS = 8
TEXT_NAME = "<text>"

_KeyPath = tuple[str | int, ...]


@dataclass
class _Composition:
    """Plain values merged from several files, and the file each path's key and value came from."""

    root: dict[str, Any] = field(default_factory=dict)
    values: dict[_KeyPath, Any] = field(default_factory=dict)
    keys: dict[_KeyPath, Any] = field(default_factory=dict)
    documents: dict[str, Any] = field(default_factory=dict)


def load_spec(source: str | Path | Mapping[str, Any] | GemmSpec) -> GemmSpec:
    """Load a spec.

    Args:
        source: a path; the name of a shipped spec (``"fp8_gemm_nt"``); YAML text (recognised by a line break or a
            brace); a mapping of plain values; or a ``GemmSpec``, which is returned as it is.

    Raises:
        SpecError: with the ``file:line:column`` of the first problem.
    """
    if isinstance(source, GemmSpec):
        return source
    if isinstance(source, Mapping):
        return GemmSpec.from_dict(source)
    if isinstance(source, str) and ("\n" in source or source.lstrip().startswith("{")):
        return _build(_parse(source.encode("utf-8", "surrogatepass"), TEXT_NAME), Path())
    if not isinstance(source, str | Path):
        raise SpecError(
            "this is not a spec",
            where="spec",
            got=type(source).__name__,
            need="a path, YAML text, a mapping or a GemmSpec",
            fix="pass the path of a .yaml file",
        )
    path = _existing(Path(source))
    return _build(_parse(_read(path, str(path), None), str(path)), path.parent)


def shipped_specs() -> dict[str, Path]:
    """The specs that come with gemmgen, by name."""
    return {path.stem: path for path in sorted(resource_dir("specs").glob("*.yaml"))}


def _existing(path: Path) -> Path:
    """``path`` itself, or the shipped spec of that name."""
    if os.path.isfile(path):  # unlike Path.is_file, this answers every impossible name with False
        return path
    shipped = shipped_specs()
    if str(path) in shipped:
        return shipped[str(path)]
    if os.path.isdir(path):
        raise SpecError(
            "this is a directory",
            where=str(path),
            got="a directory",
            need="a spec file",
            fix=f"choose a .yaml file in {path}",
        )
    close = nearest(path.stem, shipped)
    raise SpecError(
        "the spec file does not exist",
        where=str(path),
        got=str(path),
        need=f"a .yaml file, or one of {', '.join(shipped)}",
        fix=f"did you mean {close}?" if close else "check the path",
    )


def _read(path: Path, where: str, got: str | None) -> bytes:
    """At most one byte more than a spec may have, so that huge or endless files cost nothing."""
    from gemmgen.spec.yaml_reader import MAX_BYTES

    try:
        if not path.is_file():
            raise FileNotFoundError(2, "No such file")
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SpecError(
            "the spec file cannot be read",
            where=where,
            got=f"{got or path}: {reason}",
            need="a readable file",
            fix="check the path and its permissions",
        ) from None


def _parse(data: bytes, file: str) -> Any:
    from gemmgen.spec.yaml_reader import decode, read_document

    document = read_document(decode(data, file), file)
    if not isinstance(document.root, dict):
        raise SpecError(
            "a spec is a mapping",
            where=str(document.values[()]),
            got=shown(document.root),
            need="gemmgen: 1, name: …, problem: …, operands: …, targets: …",
            fix="start from a file in specs/",
        )
    _check_version(document)
    return document


def _check_version(document: Any) -> None:
    """Every file states the language's version, also one that extends another."""
    if "gemmgen" not in document.root:
        raise SpecError(
            "missing key gemmgen",
            where=str(document.values[()]),
            got="no version",
            need=f"gemmgen: {SPEC_VERSION}",
            fix=f"add gemmgen: {SPEC_VERSION} as the first line",
        )
    try:
        Integer(SPEC_VERSION, SPEC_VERSION).coerce(document.root["gemmgen"])
    except FieldError as error:
        raise SpecError(
            "unknown version of the spec language",
            where=str(document.values[("gemmgen",)]),
            got=error.got,
            need=error.need,
            fix=f"write gemmgen: {SPEC_VERSION}",
        ) from None


def _build(document: Any, folder: Path) -> GemmSpec:
    """The model of a document and all it extends."""
    merged = _Composition()
    for part in reversed(_chain(document, folder)):
        merged.documents[part.file] = part
        _merge(merged, part)
    positions = FrozenMap({dotted(path): str(position) for path, position in merged.values.items()})
    try:
        return GemmSpec.from_dict(merged.root, positions=positions)
    except FieldError as error:
        raise SpecError(
            error.what, where=_where(merged, error), got=error.got, need=error.need, fix=error.fix
        ) from None


def _chain(document: Any, folder: Path) -> list[Any]:
    """The document, what it extends, what that extends, …; the most basic one last."""
    chain, seen = [document], {_identity(folder, document.file)}
    while (target := chain[-1].root.pop("extends", None)) is not None:
        where = str(chain[-1].values[("extends",)])
        if not isinstance(target, str):
            raise SpecError(
                "extends names a file",
                where=where,
                got=shown(target),
                need="extends: other.yaml",
                fix="write the path of one .yaml file, relative to this one",
            )
        path = folder / target
        identity = _identity(path.parent, path.name)
        if identity in seen:
            raise SpecError(
                "files extend each other in a circle",
                where=where,
                got=target,
                need="no circle",
                fix="remove one of the extends lines",
            )
        if len(chain) >= MAX_EXTENDS:
            raise SpecError(
                "too many files extend each other",
                where=where,
                got=f"more than {MAX_EXTENDS} files",
                need=f"at most {MAX_EXTENDS}",
                fix="merge some of them",
            )
        seen.add(identity)
        chain.append(_parse(_read(path, where, target), str(path)))
        folder = path.parent
    return chain


def _identity(folder: Path, name: str) -> str:
    return str((folder / Path(name).name).resolve())


def _merge(merged: _Composition, part: Any) -> None:
    """Lay one document over what it extends: mappings merge, everything else replaces."""

    def lay(base: dict[str, Any], over: dict[str, Any], path: _KeyPath) -> None:
        for key, value in over.items():
            here = (*path, key)
            if isinstance(value, dict) and isinstance(base.get(key), dict):
                lay(base[key], value, here)
                continue
            if isinstance(base.get(key), dict | list):
                _forget(merged, here)
            base[key] = value

    lay(merged.root, part.root, ())
    merged.values.update(part.values)
    merged.keys.update(part.keys)
    merged.values.pop(("extends",), None)


def _forget(merged: _Composition, path: _KeyPath) -> None:
    """Drop the positions of what is being replaced."""
    for table in (merged.values, merged.keys):
        for old in [known for known in table if known[: len(path)] == path]:
            del table[old]


def _where(merged: _Composition, error: FieldError) -> str:
    """The position of a wrong key or value; of the nearest mapping that exists when the key is missing."""
    table = merged.keys if error.at_key else merged.values
    path = error.path
    while path not in table and path:
        path, table = path[:-1], merged.values
    position = table[path]
    if error.offset is None:
        return str(position)
    return str(_inside(merged.documents[position.file], merged.root, path, position, error.offset))


def _inside(document: Any, root: Any, path: _KeyPath, position: Any, offset: int) -> Any:
    """The position of one character of a text value, when the value stands in the file as it is."""
    from gemmgen.spec.yaml_reader import position_at

    value = root
    for key in path:
        value = value[key]
    for quote in (0, 1):
        start = position.offset + quote
        if document.text.startswith(str(value), start):
            return position_at(document, start + offset)
    return position
