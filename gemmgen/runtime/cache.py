"""The cubin cache: content-addressed files that many processes share, and an index from requests to them.

Two kinds of entry live under one folder:

* ``cubin``: what NVRTC made, under the hash of everything that decides it (source, options, NVRTC, target).
* ``index``: small JSON documents under the hash of a *request* (spec, dims, target, gemmgen's own code), so that a
  fresh process goes from a spec to its kernel without running the compiler.

An entry is one file, written beside its place and renamed over it, and verified whenever it is read; an entry that
does not verify counts as missing and is replaced. A folder that cannot be written leaves a memory-only cache and one
warning.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gemmgen.errors import GemmgenWarning

ENVIRONMENT_VARIABLE = "GEMMGEN_CACHE_DIR"
_LAYOUT = "gemmgen-cache-v1"
_MAGIC = b"gemmgen-entry-1\n"
_DIGEST_BYTES = 32
_LENGTH_BYTES = 8
_KINDS = ("cubin", "index")
_LOCK_TIMEOUT_S = 120.0
_ABANDONED_AFTER_S = 3600.0
_OWN_FILE = re.compile(r"[0-9a-f]{64}\.entry|\.[0-9a-f]{64}\.[\w]+\.partial|[0-9a-f]{2}\.lock")

Parts = Mapping[str, bytes]


@dataclass(frozen=True)
class CacheInfo:
    """What the cache holds.

    Attributes:
        path: its folder, or None for a memory-only cache.
        writable: whether new kernels reach the disk.
        cubins: number of compiled kernels on disk.
        requests: number of index entries on disk.
        bytes: bytes on disk, index included.
    """

    path: Path | None
    writable: bool
    cubins: int
    requests: int
    bytes: int


def digest(*texts: str | bytes) -> str:
    """A key of 64 hex digits; texts are length-prefixed, so moving a border between two changes the key."""
    state = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for text in texts:
        raw = text.encode() if isinstance(text, str) else text
        state.update(len(raw).to_bytes(_LENGTH_BYTES, "little"))
        state.update(raw)
    return state.hexdigest()


def default_directory() -> Path:
    """``GEMMGEN_CACHE_DIR`` if it is set, else the user's cache folder."""
    chosen = os.environ.get(ENVIRONMENT_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("gemmgen", appauthor=False))


class Cache:
    """A cache in one folder. All methods may be called from several threads and processes at once.

    Args:
        directory: the folder; created when first written. ``None`` keeps everything in memory.
    """

    def __init__(self, directory: Path | None) -> None:
        self._root = None if directory is None else Path(directory) / _LAYOUT
        self._memory: dict[tuple[str, str], dict[str, bytes]] = {}
        self._warned = False
        self._lock = threading.Lock()

    def get(self, kind: str, key: str) -> dict[str, bytes] | None:
        """The parts of an entry, or None if there is no intact one."""
        found = self._memory.get((kind, key))
        if found is None and self._root is not None:
            found = _read_entry(self._entry_path(self._root, kind, key), key)
            if found is not None:
                self._memory[kind, key] = found
        return found

    def put(self, kind: str, key: str, parts: Parts) -> None:
        """Store an entry; an unwritable disk costs one warning and leaves it in memory."""
        self._memory[kind, key] = dict(parts)
        if self._root is None:
            return
        path = self._entry_path(self._root, kind, key)
        try:
            _make_folder(path.parent)
            _remove_abandoned(path.parent)
            _write_atomically(path, _encode_entry(key, parts))
        except OSError as error:
            self._warn_unwritable(error)

    def get_or_make(self, kind: str, key: str, make: Callable[[], Parts]) -> dict[str, bytes]:
        """The entry, made by exactly one of all the processes that ask for it at the same time.

        A maker that dies releases its lock with its process; one that hangs is waited for two minutes, and then the
        entry is made a second time, which is harmless.
        """
        found = self.get(kind, key)
        if found is not None:
            return found
        with self._exclusive(key):
            found = self.get(kind, key)
            if found is None:
                found = dict(make())
                self.put(kind, key, found)
        return found

    def lookup(self, request_key: str) -> dict[str, Any] | None:
        """The JSON document stored for a request, or None."""
        parts = self.get("index", request_key)
        if parts is None:
            return None
        try:
            return json.loads(parts["json"])
        except (KeyError, ValueError):
            return None

    def record(self, request_key: str, document: Mapping[str, Any]) -> None:
        """Remember ``document`` for a request."""
        self.put("index", request_key, {"json": json.dumps(document).encode()})

    def info(self) -> CacheInfo:
        """Counts and sizes of what is on disk."""
        counts: dict[str, int] = dict.fromkeys(_KINDS, 0)
        total = 0
        for path in self._own_files():
            with suppress(OSError):
                total += path.stat().st_size
                if path.suffix == ".entry":
                    counts[path.parent.parent.name] += 1
        directory = None if self._root is None else self._root.parent
        return CacheInfo(directory, self._is_writable(), counts["cubin"], counts["index"], total)

    def clear(self) -> int:
        """Delete every file this cache wrote, and nothing else; returns the bytes freed."""
        freed = 0
        self._memory.clear()
        for path in list(self._own_files()):
            with suppress(OSError):
                size = path.stat().st_size
                path.unlink()
                freed += size
        if self._root is not None:
            folders = sorted((folder for folder in self._root.glob("*/**") if folder.is_dir()), reverse=True)
            for folder in [*folders, self._root]:
                with suppress(OSError):
                    folder.rmdir()
        return freed

    def _entry_path(self, root: Path, kind: str, key: str) -> Path:
        return root / kind / key[:2] / f"{key}.entry"

    def _own_files(self) -> Iterator[Path]:
        if self._root is None:
            return
        for pattern in [f"{kind}/[0-9a-f][0-9a-f]/*" for kind in _KINDS] + ["locks/*"]:
            for path in self._root.glob(pattern):
                if _OWN_FILE.fullmatch(path.name) and not path.is_symlink():
                    yield path

    def _is_writable(self) -> bool:
        if self._root is None or self._warned:
            return False
        nearest = next((folder for folder in (self._root, *self._root.parents) if folder.exists()), None)
        return nearest is not None and nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)

    @contextmanager
    def _exclusive(self, key: str) -> Iterator[None]:
        """Hold the key's lock. The kernel drops it when its holder dies; where locks do not work, go on without one.

        Locks are striped over 256 files that are never deleted, since deleting a lock file lets two holders in.
        """
        lock = self._acquire(key) if self._root is not None else None
        try:
            yield
        finally:
            if lock is not None:
                lock.release()

    def _acquire(self, key: str) -> Any:
        from filelock import FileLock, Timeout

        assert self._root is not None
        folder = self._root / "locks"
        try:
            _make_folder(folder)
            lock = FileLock(folder / f"{key[:2]}.lock", timeout=_LOCK_TIMEOUT_S, thread_local=False)
            lock.acquire(poll_interval=0.01)
        except (OSError, Timeout, NotImplementedError) as error:
            if not isinstance(error, Timeout):
                self._warn_unwritable(error)
            return None
        return lock

    def _warn_unwritable(self, error: Exception) -> None:
        with self._lock:
            if self._warned:
                return
            self._warned = True
        warnings.warn(
            f"the kernel cache cannot be written, so kernels are compiled again in every process\n"
            f"  got: {error}\n"
            f"  need: a writable folder at {self._root.parent if self._root else None}\n"
            f"  fix: set {ENVIRONMENT_VARIABLE} to one",
            GemmgenWarning,
            stacklevel=4,
        )


@cache
def cache_in(directory: Path) -> Cache:
    """The process's one cache for ``directory``, so that its memory and its warning are shared."""
    return Cache(directory)


def default_cache() -> Cache:
    """The cache in :func:`default_directory`, which follows the environment variable at every call."""
    return cache_in(default_directory())


def _make_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _remove_abandoned(folder: Path) -> None:
    """Delete what writers that were killed left behind, once it is old enough that nobody can still be writing it."""
    oldest = time.time() - _ABANDONED_AFTER_S
    for path in folder.glob(".*.partial"):
        with suppress(OSError):
            if _OWN_FILE.fullmatch(path.name) and path.stat().st_mtime < oldest:
                path.unlink()


def _encode_entry(key: str, parts: Parts) -> bytes:
    header = json.dumps({"key": key, "parts": {name: len(content) for name, content in parts.items()}}).encode()
    body = len(header).to_bytes(_LENGTH_BYTES, "little") + header + b"".join(parts.values())
    return _MAGIC + hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest() + body


def _read_entry(path: Path, key: str) -> dict[str, bytes] | None:
    """The parts of the file at ``path`` if every byte of it verifies."""
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    start = len(_MAGIC) + _DIGEST_BYTES
    body = raw[start:]
    if (
        raw[: len(_MAGIC)] != _MAGIC
        or hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest() != raw[len(_MAGIC) : start]
    ):
        return None
    end = _LENGTH_BYTES + int.from_bytes(body[:_LENGTH_BYTES], "little")
    header = json.loads(body[_LENGTH_BYTES:end])
    if header["key"] != key:
        return None
    parts = {}
    for name, size in header["parts"].items():
        parts[name] = body[end : end + size]
        end += size
    return parts


def _write_atomically(path: Path, content: bytes) -> None:
    """Write beside ``path``, flush to disk, then rename over it: readers see the old file or the whole new one."""
    handle, partial = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise
