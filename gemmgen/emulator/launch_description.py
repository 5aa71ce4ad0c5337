"""Launch files: YAML that says how to run a PTX file that gemmgen did not make.

Nothing is written but the files that ``output:`` names, and those only inside the launch file's own directory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gemmgen.emulator.api import emulate
from gemmgen.emulator.arguments import Uninitialized
from gemmgen.emulator.report import Report
from gemmgen.emulator.tensor_map import TensorMap
from gemmgen.errors import EmulationError

_TOP_KEYS = {
    "entry",
    "grid",
    "block",
    "cluster",
    "smem_bytes",
    "arrays",
    "params",
    "seed",
    "schedule",
    "numerics",
    "num_sms",
}
_REQUIRED = ("grid", "block", "params")
_ARRAY_KEYS = {"file", "key", "zeros", "nan", "uninitialized", "dtype", "shape", "output"}
_MAP_KEYS = {"tensor_map", "dims", "strides", "box", "element", "swizzle", "fill", "offset"}
_SOURCES = ("file", "zeros", "nan", "uninitialized")
MAX_ARRAY_BYTES = 1 << 32


@dataclass
class Launch:
    """A launch file, read.

    Attributes:
        arrays: by name; the kernel changes them in place.
        outputs: array name → path to write it to.
        arguments: keyword arguments of ``emulate``.
    """

    arrays: dict[str, np.ndarray]
    outputs: dict[str, Path]
    arguments: dict[str, Any]


def launch_file(ptx_path: str | Path, launch_path: str | Path, *, overrides: dict[str, Any] | None = None) -> Report:
    """Emulate a PTX file as a launch file says, and write the outputs it names.

    Args:
        ptx_path: the PTX.
        launch_path: the launch file (docs/emulator.md has the schema).
        overrides: ``seed``, ``schedule`` or ``numerics`` to use instead of the file's.

    Raises:
        EmulationError: the PTX or the launch file is malformed. Nothing has been written then.
    """
    ptx = _read_text(Path(ptx_path))
    launch = read_launch(Path(launch_path))
    launch.arguments.update(overrides or {})
    report = emulate(ptx, **launch.arguments)
    for name, path in launch.outputs.items():
        np.save(path, launch.arrays[name], allow_pickle=False)
    return report


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise EmulationError("cannot read the file", where=str(path), got=str(error)) from error


def read_launch(path: Path) -> Launch:
    """Read and check a launch file.

    Raises:
        EmulationError: it is malformed; the message names the key.
    """
    import yaml

    try:
        document = yaml.safe_load(_read_text(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise EmulationError("not YAML", where=where, got=getattr(error, "problem", None) or "unreadable") from error
    return _Reader(path).read(document)


class _Reader:
    """Turns the document into arrays and arguments; relative paths start at the launch file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._root = path.resolve().parent
        self._arrays: dict[str, np.ndarray] = {}
        self._unwritten: set[str] = set()
        self._outputs: dict[str, Path] = {}

    def read(self, document: Any) -> Launch:
        self._mapping(document, "the launch file", _TOP_KEYS)
        for key in _REQUIRED:
            if key not in document:
                raise self._error("a required key is missing", "launch file", got=", ".join(document), need=key)
        for name, entry in self._mapping(document.get("arrays", {}), "arrays", None).items():
            self._read_array(str(name), entry)
        params = document["params"]
        if not isinstance(params, list):
            raise self._error("not a list", "params", got=type(params).__name__)
        arguments = {
            "entry": document.get("entry"),
            "grid": self._extents(document["grid"], "grid"),
            "block": self._extents(document["block"], "block"),
            "cluster": self._extents(document.get("cluster", 1), "cluster"),
            "smem_bytes": self._integer(document.get("smem_bytes", 0), "smem_bytes"),
            "params": [self._param(value, f"params[{n}]") for n, value in enumerate(params)],
            "seed": self._integer(document.get("seed", 0), "seed"),
            "schedule": document.get("schedule", "fifo"),
            "numerics": document.get("numerics", "hardware"),
            "num_sms": self._integer(document.get("num_sms", 132), "num_sms"),
        }
        return Launch(self._arrays, self._outputs, arguments)

    def _error(self, what: str, where: str, got: Any = None, need: Any = None) -> EmulationError:
        return EmulationError(what, where=f"{self._path}: {where}", got=got, need=need)

    def _mapping(self, value: Any, where: str, keys: set[str] | None) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._error("not a mapping", where, got=type(value).__name__)
        unknown = [str(key) for key in value if keys is not None and key not in keys]
        if unknown:
            raise self._error("unknown key", where, got=", ".join(unknown), need=", ".join(sorted(keys or ())))
        return value

    def _integer(self, value: Any, where: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self._error("not a non-negative integer", where, got=repr(value))
        return value

    def _extents(self, value: Any, where: str) -> int | tuple[int, ...]:
        if isinstance(value, list):
            return tuple(self._integer(v, where) for v in value)
        return self._integer(value, where)

    def _integers(self, value: Any, where: str) -> tuple[int, ...]:
        if not isinstance(value, list):
            raise self._error("not a list of integers", where, got=repr(value))
        return tuple(self._integer(v, where) for v in value)

    def _read_array(self, name: str, entry: Any) -> None:
        where = f"arrays.{name}"
        self._mapping(entry, where, _ARRAY_KEYS)
        sources = [key for key in _SOURCES if entry.get(key)]
        if len(sources) != 1:
            raise self._error(
                "an array needs exactly one source", where, got=", ".join(sources) or "none", need=" | ".join(_SOURCES)
            )
        source = sources[0]
        if source == "file":
            self._arrays[name] = self._load(entry, where)
        else:
            self._arrays[name] = self._make(entry, where, source)
            if source == "uninitialized":
                self._unwritten.add(name)
        if "output" in entry:
            self._outputs[name] = self._output_path(entry["output"], where)

    def _load(self, entry: dict[str, Any], where: str) -> np.ndarray:
        path = self._inside(entry["file"], where)
        try:
            loaded = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise self._error("cannot read the array", where, got=str(error)) from error
        if isinstance(loaded, np.lib.npyio.NpzFile):
            key = str(entry.get("key"))
            if key not in loaded:
                raise self._error("no such key in the .npz", where, got=key, need=", ".join(loaded.files))
            loaded = loaded[key]
        array = np.array(loaded, order="C")
        if "dtype" in entry and array.dtype != self._dtype(entry["dtype"], where):
            raise self._error("the file holds another dtype", where, got=array.dtype, need=entry["dtype"])
        return array

    def _make(self, entry: dict[str, Any], where: str, source: str) -> np.ndarray:
        dtype = self._dtype(entry.get("dtype"), where)
        shape = self._integers(entry.get("shape"), f"{where}.shape")
        if int(np.prod(shape, dtype=object)) * dtype.itemsize > MAX_ARRAY_BYTES:
            raise self._error("the array is too large", where, got=shape, need=f"at most {MAX_ARRAY_BYTES} bytes")
        array = np.zeros(shape, dtype)
        if source != "zeros":
            array.reshape(-1).view(np.uint8)[...] = 0xFF
        return array

    def _dtype(self, name: Any, where: str) -> np.dtype:
        import ml_dtypes

        if not isinstance(name, str):
            raise self._error("a dtype is missing", where, got=name, need="a numpy or ml_dtypes name such as float32")
        try:
            found = np.dtype(getattr(ml_dtypes, name, None) or name)
        except TypeError as error:
            raise self._error("unknown dtype", where, got=name, need="a numpy or ml_dtypes name") from error
        if found.hasobject or found.itemsize == 0:
            raise self._error("unknown dtype", where, got=name, need="a numpy or ml_dtypes number")
        return found

    def _inside(self, name: Any, where: str) -> Path:
        if not isinstance(name, str) or not name:
            raise self._error("not a path", where, got=repr(name))
        return self._root / name

    def _output_path(self, name: Any, where: str) -> Path:
        path = self._inside(name, where)
        resolved = path.resolve()
        if not resolved.is_relative_to(self._root):
            raise self._error("an output outside the launch file's directory", where, got=name, need="a path below it")
        if resolved.suffix != ".npy" or resolved == self._path.resolve():
            raise self._error("an output must be a .npy file", where, got=name)
        if not resolved.parent.is_dir():
            raise self._error("the output's directory does not exist", where, got=name)
        return resolved

    def _argument(self, name: Any, where: str) -> Any:
        if name not in self._arrays:
            raise self._error("unknown array", where, got=name, need=", ".join(self._arrays) or "an entry of arrays")
        array = self._arrays[name]
        return Uninitialized(array) if name in self._unwritten else array

    def _param(self, value: Any, where: str) -> Any:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self._argument(value, where)
        if isinstance(value, dict) and set(value) == {"array"}:
            return self._argument(value["array"], where)
        value = self._mapping(value, where, _MAP_KEYS)
        for key in ("tensor_map", "dims", "box", "element"):
            if key not in value:
                raise self._error("a tensor map lacks a key", where, need=key)
        return TensorMap(
            self._argument(value["tensor_map"], where),
            self._integers(value["dims"], f"{where}.dims"),
            self._integers(value.get("strides", []), f"{where}.strides"),
            self._integers(value["box"], f"{where}.box"),
            str(value["element"]),
            str(value.get("swizzle", "none")),
            str(value.get("fill", "zero")),
            self._integer(value.get("offset", 0), f"{where}.offset"),
        )
