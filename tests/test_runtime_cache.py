"""The cubin cache: shared by processes, verified on read, and never in the way."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from gemmgen.errors import GemmgenWarning
from gemmgen.runtime import cache as cache_module
from gemmgen.runtime.cache import Cache, default_cache, default_directory, digest
from gemmgen.runtime.fingerprint import code_fingerprint, hash_sources

KEYS = [digest(f"kernel {index}") for index in range(3)]

RACER = """
import sys, time
from pathlib import Path
from gemmgen.runtime.cache import Cache, digest

folder, start, log = Path(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])

def make(name):
    with open(log, "a") as file:
        file.write(name + "\\n")
    time.sleep(0.05)
    return {"cubin": name.encode() * 1000}

time.sleep(max(0.0, start - time.time()))
cache = Cache(folder)
for name in ["kernel 0", "kernel 1", "kernel 2"]:
    parts = cache.get_or_make("cubin", digest(name), lambda: make(name))
    assert parts == {"cubin": name.encode() * 1000}, name
"""

HOLDER = """
import sys, time
from pathlib import Path
from gemmgen.runtime.cache import Cache, digest

def make():
    print("made", flush=True)
    time.sleep(60)

Cache(Path(sys.argv[1])).get_or_make("cubin", digest("kernel 0"), make)
"""

WRITER = """
import os, signal, sys
from pathlib import Path
from gemmgen.runtime import cache
from gemmgen.runtime.cache import Cache, digest

os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
Cache(Path(sys.argv[1])).put("cubin", digest("kernel 0"), {"cubin": b"x" * 100_000})
"""


def entry(folder: Path, kind: str = "cubin", key: str = KEYS[0]) -> Path:
    return folder / "gemmgen-cache-v1" / kind / key[:2] / f"{key}.entry"


def python(script: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE, **options)  # type: ignore[call-overload]


def test_entries_survive_in_another_cache_object(tmp_path: Path) -> None:
    parts = {"cubin": b"\x7fELF\0\xff", "ptx": b"", "source": "µ".encode()}
    Cache(tmp_path).put("cubin", KEYS[0], parts)
    assert Cache(tmp_path).get("cubin", KEYS[0]) == parts
    assert Cache(tmp_path).get("cubin", KEYS[1]) is None
    assert Cache(tmp_path).get("index", KEYS[0]) is None


def test_requests_map_to_documents(tmp_path: Path) -> None:
    document = {"cubin": KEYS[1], "launch": {"tiles": [128, 128, 1], "pdl": False}}
    Cache(tmp_path).record(KEYS[0], document)
    assert Cache(tmp_path).lookup(KEYS[0]) == document
    assert Cache(tmp_path).lookup(KEYS[1]) is None


def test_keys_separate_their_texts() -> None:
    assert digest("ab", "c") != digest("a", "bc")
    assert digest("ab") == digest(b"ab")
    assert len(digest("")) == 64


def test_sixteen_processes_make_each_kernel_once(tmp_path: Path) -> None:
    log = tmp_path / "made"
    racers = [python(RACER, tmp_path / "cache", time.time() + 1.5, log) for _ in range(16)]
    errors = [racer.communicate(timeout=60)[1] for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 16, errors
    assert sorted(log.read_text().split("\n")) == ["", "kernel 0", "kernel 1", "kernel 2"]


def test_a_holder_that_dies_lets_others_go_on(tmp_path: Path) -> None:
    holder = python(HOLDER, tmp_path)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "made\n"
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    start = time.monotonic()
    assert Cache(tmp_path).get_or_make("cubin", KEYS[0], lambda: {"cubin": b"second"}) == {"cubin": b"second"}
    assert time.monotonic() - start < 5


def test_a_holder_that_hangs_is_not_waited_for_forever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_LOCK_TIMEOUT_S", 0.2)
    holder = python(HOLDER, tmp_path)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "made\n"
        assert Cache(tmp_path).get_or_make("cubin", KEYS[0], lambda: {"cubin": b"second"}) == {"cubin": b"second"}
    finally:
        holder.kill()
        holder.communicate()


def test_a_writer_that_dies_leaves_no_entry_and_its_remains_are_cleared(tmp_path: Path) -> None:
    writer = python(WRITER, tmp_path)
    writer.communicate(timeout=30)
    assert writer.returncode == -signal.SIGKILL
    (partial,) = entry(tmp_path).parent.glob(".*.partial")
    assert Cache(tmp_path).get("cubin", KEYS[0]) is None
    hours_ago = time.time() - 7200
    os.utime(partial, (hours_ago, hours_ago))
    Cache(tmp_path).put("cubin", KEYS[0], {"cubin": b"x"})
    assert [path.name for path in entry(tmp_path).parent.iterdir()] == [f"{KEYS[0]}.entry"]


def damage_empty(raw: bytes) -> bytes:
    return b""


def damage_half(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def damage_header(raw: bytes) -> bytes:
    return raw.replace(b'"parts"', b'"trash"')


def damage_magic(raw: bytes) -> bytes:
    return b"x" + raw[1:]


def damage_last_byte(raw: bytes) -> bytes:
    return raw[:-1] + bytes([raw[-1] ^ 1])


def damage_longer(raw: bytes) -> bytes:
    return raw + b"\0"


DAMAGES = [damage_empty, damage_half, damage_header, damage_magic, damage_last_byte, damage_longer]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.removeprefix("damage_"))
def test_a_damaged_entry_is_made_again(tmp_path: Path, damage: object) -> None:
    Cache(tmp_path).put("cubin", KEYS[0], {"cubin": b"good" * 100})
    path = entry(tmp_path)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert Cache(tmp_path).get("cubin", KEYS[0]) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = Cache(tmp_path).get_or_make("cubin", KEYS[0], lambda: {"cubin": b"again"})
    assert made == {"cubin": b"again"}
    assert Cache(tmp_path).get("cubin", KEYS[0]) == {"cubin": b"again"}


def test_an_entry_under_another_key_is_not_taken(tmp_path: Path) -> None:
    Cache(tmp_path).put("cubin", KEYS[0], {"cubin": b"x"})
    other = entry(tmp_path, key=KEYS[1])
    other.parent.mkdir(parents=True)
    other.write_bytes(entry(tmp_path).read_bytes())
    assert Cache(tmp_path).get("cubin", KEYS[1]) is None


def blocked_by_a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "cache"


def below_proc(tmp_path: Path) -> Path:
    return Path("/proc/gemmgen")


@pytest.mark.parametrize("place", [blocked_by_a_file, below_proc], ids=lambda place: place.__name__)
def test_an_unusable_folder_means_memory_and_one_warning(tmp_path: Path, place: object) -> None:
    cache = Cache(place(tmp_path))  # type: ignore[operator]

    def fill() -> None:
        for key in KEYS:
            assert cache.get_or_make("cubin", key, lambda: {"cubin": b"x"}) == {"cubin": b"x"}
            cache.record(key, {})

    with pytest.warns(GemmgenWarning) as caught:
        fill()
    assert len(caught) == 1
    assert "GEMMGEN_CACHE_DIR" in str(caught[0].message)
    assert cache.get("cubin", KEYS[2]) == {"cubin": b"x"}
    assert cache.info().cubins == 0
    assert not cache.info().writable


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_read(tmp_path: Path) -> None:
    Cache(tmp_path).put("cubin", KEYS[0], {"cubin": b"x"})
    folders = [folder for folder in tmp_path.rglob("*") if folder.is_dir()]
    for folder in folders:
        folder.chmod(0o500)
    try:
        check_read_only(tmp_path)
    finally:
        for folder in folders:
            folder.chmod(0o700)


def test_a_full_or_read_only_disk_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Cache(tmp_path).put("cubin", KEYS[0], {"cubin": b"x"})

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(cache_module.tempfile, "mkstemp", refuse)
    check_read_only(tmp_path)


def check_read_only(folder: Path) -> None:
    cache = Cache(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.get("cubin", KEYS[0]) == {"cubin": b"x"}
    with pytest.warns(GemmgenWarning, match="cannot be written"):
        assert cache.get_or_make("cubin", KEYS[1], lambda: {"cubin": b"y"}) == {"cubin": b"y"}


def test_info_counts_and_clear_deletes_only_its_own(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for key in KEYS:
        cache.get_or_make("cubin", key, lambda: {"cubin": b"x" * 1000})
    cache.record(KEYS[0], {"cubin": KEYS[1]})
    foreign = [tmp_path / "notes.txt", entry(tmp_path).parent / "notes.txt", tmp_path / "cubin" / f"{KEYS[0]}.entry"]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("keep")
    info = cache.info()
    assert (info.path, info.writable, info.cubins, info.requests) == (tmp_path, True, 3, 1)
    assert info.bytes > 3000
    assert cache.clear() == info.bytes
    assert [path.read_text() for path in foreign] == ["keep"] * 3
    assert cache.info().bytes == 0
    assert cache.get("cubin", KEYS[0]) is None
    cache.put("cubin", KEYS[0], {"cubin": b"x"})
    assert Cache(tmp_path).get("cubin", KEYS[0]) == {"cubin": b"x"}


def test_clear_does_not_follow_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside.entry"
    outside.write_text("keep")
    cache = Cache(tmp_path / "cache")
    cache.put("cubin", KEYS[0], {"cubin": b"x"})
    link = entry(tmp_path / "cache", key=KEYS[0]).parent / f"{'0' * 64}.entry"
    link.symlink_to(outside)
    cache.clear()
    assert outside.read_text() == "keep"


def test_the_folder_is_private_and_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMMGEN_CACHE_DIR", str(tmp_path / "one"))
    assert default_directory() == tmp_path / "one"
    first = default_cache()
    first.put("cubin", KEYS[0], {"cubin": b"x"})
    assert stat.S_IMODE(entry(tmp_path / "one").parent.stat().st_mode) == 0o700
    assert default_cache() is first
    monkeypatch.setenv("GEMMGEN_CACHE_DIR", str(tmp_path / "two"))
    assert default_cache() is not first
    monkeypatch.delenv("GEMMGEN_CACHE_DIR")
    assert default_directory().name == "gemmgen"


def test_memory_only_cache() -> None:
    cache = Cache(None)
    cache.put("cubin", KEYS[0], {"cubin": b"x"})
    assert cache.get("cubin", KEYS[0]) == {"cubin": b"x"}
    assert cache.info() == cache_module.CacheInfo(None, False, 0, 0, 0)
    assert cache.clear() == 0


def test_fingerprint_sees_every_change_of_code(tmp_path: Path) -> None:
    (tmp_path / "emulator").mkdir()
    (tmp_path / "emit.py").write_text("a")
    before = hash_sources((tmp_path,))
    (tmp_path / "emulator" / "x.py").write_text("a")
    (tmp_path / "readme.md").write_text("a")
    assert hash_sources((tmp_path,)) == before
    seen = {before}
    for name, text in [("emit.py", "b"), ("kernel.j2", ""), ("grammar.lark", "x"), ("grammar.lark", "y")]:
        (tmp_path / name).write_text(text)
        seen.add(hash_sources((tmp_path,)))
    (tmp_path / "emit.py").rename(tmp_path / "emit2.py")
    seen.add(hash_sources((tmp_path,)))
    assert len(seen) == 6
    assert code_fingerprint() == code_fingerprint()
