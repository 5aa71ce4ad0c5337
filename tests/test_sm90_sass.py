"""Promotion's bursts: which bits of a Hopper cubin change, that values cannot, and that shipped kernels have runs."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ir_texts import SPECS, TARGET, spec_of

import gemmgen
from gemmgen import compiler
from gemmgen.backends.sm90.sass import KEEPS_B, STAYS, PromotionBurstPass, burst_promotion
from gemmgen.cli import main
from gemmgen.errors import CompileError
from gemmgen.plan import Binary
from gemmgen.runtime import nvrtc
from gemmgen.runtime.cache import Cache
from gemmgen.runtime.disassemble import disassemble, find_nvdisasm
from gemmgen.schedule import Schedule

Word = tuple[int, int]
MOV = 0x202
BITS = STAYS | KEEPS_B
WHOLE = 256
"""No run is as long."""
LENGTHS = st.integers(1, 24)
GROUPS: dict[str, Any] = {"producer_registers": 40, "math_registers": 232}
OVERLAPPED = Schedule((128, 128, 128), 5, promotion_overlap=True, promotion_burst=8, **GROUPS)
OF_ONE_GROUP = Schedule((64, 64, 128), 8, math_warpgroups=1, promotion_overlap=True, promotion_burst=WHOLE)
ALONE = Schedule((128, 192, 128), 4, promotion_burst=4, lookahead=True, unroll=4, **GROUPS)
SCHEDULES = [
    OVERLAPPED,
    OVERLAPPED.replace(scale_copy="lanes"),
    OVERLAPPED.replace(tile=(128, 96, 128), promotion_burst=WHOLE),
    OVERLAPPED.replace(tile=(128, 64, 128), promotion_burst=WHOLE, split_k=3),
    OF_ONE_GROUP,
    OF_ONE_GROUP.replace(tile=(64, 32, 128), split_k=5),
    ALONE,
    ALONE.replace(tile=(256, 128, 128), stages=3, promotion_burst=8),
]


def ffma(d: int, a: int, b: int, c: int, *, high: int = 1 << 41, predicate: int = 7) -> Word:
    """``FFMA d, a, b, c``, after which the warp waits one cycle and gives way, unless ``high`` says otherwise."""
    return 0x223 | predicate << 12 | d << 16 | a << 24 | b << 32, high | c


def mov(d: int) -> Word:
    return MOV | 7 << 12 | d << 16, 1 << 41


def image_of(code: Sequence[Word], entry: str = "k") -> bytes:
    """An ELF image with the section of names and that of a kernel's instructions."""
    names = b"\0.shstrtab\0.text.other\0" + f".text.{entry}\0".encode()
    text = b"".join(struct.pack("<QQ", *word) for word in code)
    rows = [(0, 0, 0), (1, 64, len(names)), (11, 64, 0), (23, 64 + len(names), len(text))]
    table = b"".join(struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, at, size, 0, 0, 1, 0) for name, at, size in rows)
    start = 64 + len(names) + len(text)
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 190, 1, 0, 0, start, 0, 64, 0, 0, 64, 4, 1)
    return head + names + text + table


def code_in(image: bytes, count: int) -> list[Word]:
    at = image.index(b".text.k\0") + len(b".text.k\0")
    return list(struct.iter_unpack("<QQ", image[at : at + 16 * count]))


def burst(code: Sequence[Word], length: int = WHOLE) -> tuple[list[Word], int]:
    image, count = burst_promotion(image_of(code), "k", length)
    return code_in(image, len(code)), count


def marked(code: Sequence[Word], length: int = WHOLE) -> list[bool]:
    return [high & BITS == BITS for _, high in burst(code, length)[0]]


def run_of(count: int, **fields: int) -> list[Word]:
    """FFMAs by one scale."""
    return [ffma(d, 24 + d, 202, d, **fields) for d in range(count)]


def test_a_run_stays_and_keeps_its_scale_but_for_its_last():
    assert marked(run_of(5)) == [True, True, True, True, False]
    assert burst(run_of(5))[1] == 4


@pytest.mark.parametrize(
    ("length", "gives_way"), [(1, range(10)), (4, (3, 7, 9)), (8, (7, 9)), (9, (8, 9)), (10, (9,)), (WHOLE, (9,))]
)
def test_a_run_gives_way_after_each_burst(length: int, gives_way: Sequence[int]):
    assert marked(run_of(10), length) == [index not in gives_way for index in range(10)]
    assert burst(run_of(10), length)[1] == 10 - len(gives_way)


def test_every_run_begins_a_burst():
    runs = [*run_of(3), mov(7), *run_of(6), ffma(20, 44, 203, 20), ffma(21, 45, 203, 21)]
    assert marked(runs, 4) == [True, True, False, False, True, True, True, False, True, False, True, False]


def test_what_ptxas_had_marked_loses_both_bits_where_a_burst_ends():
    for bits in (STAYS, KEEPS_B, BITS):
        changed, count = burst(run_of(6, high=1 << 41 | bits), 4)
        assert [high & BITS for _, high in changed] == [BITS, BITS, BITS, 0, BITS, bits], "the last one is of no run"
        assert count == 4


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ([ffma(1, 2, 9, 1), ffma(3, 4, 8, 3), ffma(5, 6, 8, 5)], [False, True, False]),
        ([ffma(1, 2, 9, 1), mov(7), ffma(3, 4, 9, 3)], [False, False, False]),
        # What it writes is read by the next one.
        ([ffma(9, 2, 9, 1), ffma(3, 4, 9, 3)], [False, False]),
        # The same register, but as another operand.
        ([ffma(1, 9, 2, 1), ffma(3, 9, 4, 3)], [False, False]),
        ([ffma(1, 2, 255, 1), ffma(3, 4, 255, 3)], [False, False]),
        ([ffma(1, 2, 9, 1, predicate=0), ffma(3, 4, 9, 3)], [False, False]),
        ([ffma(1, 2, 9, 1), ffma(3, 4, 9, 3, predicate=0)], [False, False]),
        ([ffma(1, 2, 9, 1, high=11 << 41), ffma(3, 4, 9, 3)], [True, False]),
        ([ffma(1, 2, 9, 1, high=12 << 41), ffma(3, 4, 9, 3)], [False, False]),
        ([ffma(1, 2, 9, 1, high=0), ffma(3, 4, 9, 3)], [False, False]),
        ([ffma(1, 2, 9, 1)], [False]),
        ([], []),
    ],
)
def test_what_is_a_run(code: list[Word], expected: list[bool]):
    assert marked(code) == expected
    assert burst(code)[1] == sum(expected)


ENCODED = st.one_of(
    st.builds(
        ffma, *[st.integers(0, 3)] * 4, predicate=st.sampled_from([7, 7, 7, 0]),
        high=st.integers(0, 2**24 - 1).map(lambda bits: bits << 40),
    ),
    st.builds(mov, st.integers(0, 3)),
    st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
)  # fmt: skip


@given(st.lists(ENCODED, max_size=24), LENGTHS)
def test_only_two_bits_of_ffmas_change_and_only_once(code: list[Word], length: int):
    changed, count = burst(code, length)
    assert count <= max(0, len(code) - 1)
    for index, (before, after) in enumerate(zip(code, changed, strict=True)):
        assert after[0] == before[0]
        assert after[1] in (before[1], before[1] | BITS, before[1] & ~BITS)
        if after != before:
            low, following = before[0], code[index + 1][0]
            assert low & 0xFFF == following & 0xFFF == 0x223
            assert low >> 32 & 0xFF == following >> 32 & 0xFF != low >> 16 & 0xFF
    assert burst(changed, length) == (changed, count)
    image = image_of(code)
    again, _ = burst_promotion(image, "k", length)
    assert len(again) == len(image)
    text = image.index(b".text.k\0") + 8
    assert (again[:text], again[text + 16 * len(code) :]) == (image[:text], image[text + 16 * len(code) :])


@given(st.lists(ENCODED, max_size=24), LENGTHS, LENGTHS)
def test_the_last_length_decides(code: list[Word], first: int, length: int):
    """Whatever bits a run had, those of its bursts are all that it has then."""
    assert burst(burst(code, first)[0], length) == burst(code, length)


@given(st.lists(st.builds(ffma, *[st.integers(0, 3)] * 2, st.just(9), st.integers(0, 3)), max_size=24), LENGTHS)
def test_no_burst_is_longer(code: list[Word], length: int):
    changed, count = burst(code, length)
    texts = "".join("x" if high & BITS == BITS else "." for _, high in changed)
    assert max(map(len, texts.split("."))) < length
    assert count == texts.count("x")


def run(code: Sequence[Word], start: int) -> list[int]:
    """Registers after a branch to ``start``, where B comes from the operand cache if the instruction before kept it."""
    registers, kept = [3, 5, 7, 11], None
    for low, high in code[start:]:
        d, a, b = (low >> shift & 0xFF for shift in (16, 24, 32))
        if low & 0xFFF == MOV:
            registers[d], kept = registers[d] + 1, kept if kept and kept[0] != "read" else None
            continue
        value = kept[1] if kept and kept[0] == b else registers[b]
        kept = (b, value) if high & KEEPS_B else None
        registers[d] = (registers[a] * value + registers[high & 0xFF]) % 1009
    return registers


SHORT = st.one_of(st.builds(ffma, *[st.integers(0, 3)] * 4), st.builds(mov, st.integers(0, 3)))


@given(st.lists(SHORT, max_size=16), st.integers(0, 15), LENGTHS, LENGTHS)
def test_values_are_the_same_from_wherever_a_run_is_entered(code: list[Word], start: int, first: int, length: int):
    """A model of the operand cache that keeps a value for as long as nobody drops it."""
    changed = burst(code, first)[0]
    assert run(changed, start) == run(code, start)
    assert run(burst(changed, length)[0], start) == run(code, start)


def test_the_model_of_the_cache_sees_what_is_kept_wrongly():
    code = [ffma(1, 2, 1, 1), ffma(3, 2, 1, 3)]
    assert run([(low, high | KEEPS_B) for low, high in code], 0) != run(code, 0)


GOOD = image_of([ffma(1, 2, 9, 1), ffma(3, 4, 9, 3)])


@pytest.mark.parametrize(
    ("image", "entry", "what"),
    [
        (b"", "k", "is no ELF image"),
        (b"//\n// Generated by NVIDIA NVVM Compiler" * 4, "k", "is no ELF image"),
        (GOOD[:4] + b"\x01" + GOOD[5:], "k", "is no ELF image"),
        (GOOD[:100], "k", "section table is damaged"),
        (GOOD[:58] + b"\x20" + GOOD[59:], "k", "section table is damaged"),
        (GOOD, "another", "has no code for its kernel"),
        (GOOD, "", "has no code for its kernel"),
        (GOOD[:-32] + struct.pack("<Q", 1 << 40) + GOOD[-24:], "k", "code is damaged"),
        (GOOD[:-32] + struct.pack("<Q", 24) + GOOD[-24:], "k", "code is damaged"),
    ],
)
def test_damaged_images_are_refused(image: bytes, entry: str, what: str):
    with pytest.raises(CompileError, match=what) as caught:
        burst_promotion(image, entry, 4)
    assert caught.value.where == entry
    assert None not in (caught.value.got, caught.value.need, caught.value.fix)


@given(st.data())
def test_damage_never_raises_anything_else(data: st.DataObject):
    image = bytearray(GOOD)
    for index in data.draw(st.lists(st.integers(0, len(GOOD) - 1), max_size=6)):
        image[index] = data.draw(st.integers(0, 255))
    with suppress(CompileError):
        burst_promotion(bytes(image[: data.draw(st.integers(0, len(GOOD)))]), "k", 4)


@cache
def compiled(schedule: Schedule) -> tuple[str, bytes]:
    """The kernel's name, and what ptxas makes of it."""
    artifact = compiler.build(spec_of(576, 7168), TARGET, schedule)
    assert artifact.cubin_pass == PromotionBurstPass(schedule.promotion_burst)
    return artifact.name, nvrtc.compile_cuda(artifact.source, artifact.name, TARGET, want_ptx=False).cubin


def words(image: bytes) -> list[Word]:
    """An image in units of 16 bytes, to which code is aligned."""
    return list(struct.iter_unpack("<QQ", image[: len(image) // 16 * 16]))


def repeats(word: Word, following: Word) -> bool:
    """Whether two words are FFMAs of one run, the first of which does not write what they share."""
    (low, _), (after, _) = word, following
    b = low >> 32 & 0xFF
    return low & 0xFFFF == after & 0xFFFF == 0x7223 and after >> 32 & 0xFF == b != low >> 16 & 0xFF


def places_in_runs(code: Sequence[Word]) -> list[int]:
    """Of each word its place in its run, 1 for the first; 0 outside, and for a run's last."""
    places = [0]
    for pair in pairwise(code):
        places.append(places[-1] + 1 if repeats(*pair) else 0)
    return [*places[1:], 0]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_compiled_kernels(schedule: Schedule):
    """Only FFMAs change; of every run all but the last of each burst have both bits."""
    (name, before), length = compiled(schedule), schedule.promotion_burst
    after, count = burst_promotion(before, name, length)
    changed, places = words(after), places_in_runs(words(before))
    assert (len(after), after[len(changed) * 16 :]) == (len(before), before[len(changed) * 16 :])
    assert count == sum(place % length > 0 for place in places)
    for place, (low, high), (low_after, high_after) in zip(places, words(before), changed, strict=True):
        bits = high | BITS if place % length else high & ~BITS
        assert (low_after, high_after) == (low, bits if place else high)
    assert burst_promotion(after, name, length) == (after, count)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_ptxas_still_emits_runs(schedule: Schedule):
    """One scale per row and, where a tile lies in one block of columns, one per fragment: a run for each of them.

    A ptxas that orders promotion otherwise would make the pass useless without making anything wrong; then this fails.
    """
    name, cubin = compiled(schedule)
    _, count = burst_promotion(cubin, name, WHOLE)
    ffmas = sum(low & 0xFFFF == 0x7223 for low, _ in words(cubin))
    assert ffmas >= schedule.tile[1] // 2, "a step of promotion"
    whole = 128 % schedule.tile[1] == 0
    assert count > ffmas * (0.7 if whole else 0.2), (count, ffmas)


@pytest.mark.skipif(find_nvdisasm() is None, reason="no nvdisasm: the encoding was not read back")
@pytest.mark.parametrize(("length", "changes"), [(WHOLE, {True}), (3, {True, False})])
def test_the_disassembler_reads_it_so(length: int, changes: set[bool]):
    """Of an instruction whose text changes, source B is kept, or is not any more."""
    name, before = compiled(OVERLAPPED)
    after, _ = burst_promotion(before, name, length)
    texts = [disassemble(image, name).splitlines() for image in (before, after)]
    different = [pair for pair in zip(*texts, strict=True) if pair[0] != pair[1]]
    assert 0 < len(different) <= sum(place > 0 for place in places_in_runs(words(before)))
    assert {keeps_b(new) for _, new in different} == changes
    for old, new in different:
        assert keeps_b(old) != keeps_b(new)
        assert dropped(old).split() == dropped(new).split()


def keeps_b(text: str) -> bool:
    return source_b(text).endswith(".reuse")


def dropped(text: str) -> str:
    """An instruction that does not keep source B."""
    return text.replace(source_b(text), source_b(text).removesuffix(".reuse"))


def source_b(text: str) -> str:
    return text.split(",")[2].strip()


def binary_of(cache: Cache, **hints: Any) -> Binary:
    spec = spec_of(512, 256, tile=(64, 64, 128), **hints)
    (variant,) = gemmgen.compile(spec, TARGET, cache=cache).plan()
    return variant.binary()


def test_a_plan_changes_the_cubin_and_nothing_else():
    new, old = binary_of(Cache(None)), binary_of(Cache(None), promotion_burst=0)
    assert new.promotion_burst > 0 == old.promotion_burst
    assert (new.source, new.ptx, new.launch, new.resources) == (old.source, old.ptx, old.launch, old.resources)
    assert new.key != old.key
    assert burst_promotion(old.cubin, old.launch.entry, WHOLE) == (new.cubin, new.promotion_burst)


def test_equal_sources_with_and_without_have_entries_of_their_own(tmp_path: Path):
    """The key of a cubin says whether it was changed, by which version, and how long bursts are."""
    cache = Cache(tmp_path)
    found = [binary_of(cache), *(binary_of(cache, promotion_burst=length) for length in (0, WHOLE, 4))]
    assert found[0] == found[2]
    assert len({one.key for one in found}) == 3
    assert cache.info().cubins == 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gemmgen.backends.sm90.sass.VERSION", 1000)
        patch.setattr("gemmgen.plan.code_fingerprint", lambda: "another version")
        assert binary_of(cache).key not in {one.key for one in found}
    assert binary_of(Cache(tmp_path)) == found[0]


def test_files_and_tables_say_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    spec = tmp_path / "bursting.yaml"
    base = f"gemmgen: 1\nextends: {SPECS / 'fp8_gemm_nt.yaml'}\nname: bursting\n"
    spec.write_text(f"{base}schedule: {{tile: [64, 64, 128]}}\ntargets: [sm_90a]\n")
    dims = ["--dim", "N=512", "--dim", "K=256"]
    with pytest.raises(SystemExit) as caught:
        main(["compile", str(spec), *dims, "-o", str(tmp_path / "out")])
    assert caught.value.code == 0
    assert "FFMAs in bursts" in " ".join(capsys.readouterr().out.split())
    (path,) = (tmp_path / "out").glob("*.json")
    manifest = json.loads(path.read_text())
    cubin = (path.parent / manifest["files"]["cubin"]).read_bytes()
    assert manifest["schedule"]["promotion_burst"] == WHOLE
    assert burst_promotion(cubin, manifest["entry"], WHOLE) == (cubin, manifest["promotion_burst"])
    assert manifest["promotion_burst"] > 0
    with pytest.raises(SystemExit):
        main(["inspect", str(spec), *dims, "--stage", "resources", "--json"])
    (kernel,) = json.loads(capsys.readouterr().out)["kernels"]
    assert kernel["promotion_burst"] == manifest["promotion_burst"]
