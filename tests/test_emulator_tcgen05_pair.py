"""The protocol of a CTA pair on the emulator: clean under every scheduler, and each mistake in it found."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from tcgen05_pair import pair_kernel, run_pair

from gemmgen.emulator import Kind
from gemmgen.emulator.machine.mbarrier import MBarrier
from gemmgen.errors import EmulationError

WRONG = "wrong-value"
TOLERANCE = 1e-5
SCHEDULES = ("fifo", "random", "adversarial")


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_pair_kernel_is_clean(scaled: bool, schedule: str) -> None:
    for seed in range(4):
        report, error = run_pair(pair_kernel(scaled), scaled, schedule, seed)
        assert report.ok, str(report)
        assert error < TOLERANCE


def test_the_peers_bytes_may_come_before_the_leader_expects_them(monkeypatch: pytest.MonkeyPatch) -> None:
    lowest = 0
    original = MBarrier.complete

    def complete(self: MBarrier, size: int) -> None:
        nonlocal lowest
        original(self, size)
        lowest = min(lowest, self.transactions)

    monkeypatch.setattr(MBarrier, "complete", complete)
    for seed in range(4):
        report, _ = run_pair(pair_kernel(False), False, "random", seed)
        assert report.ok, str(report)
    assert lowest < 0


@dataclass(frozen=True)
class Mistake:
    """An edit of every line that holds ``marker``, and the classes of which at least one must be named.

    ``old`` becomes ``new``; without ``old`` the line goes. Lines that hold ``also`` go first.
    """

    marker: str
    classes: tuple[str, ...]
    old: str = ""
    new: str = ""
    scaled: bool = True
    schedule: str = "fifo"
    also: str = ""

    def apply(self, ptx: str) -> str:
        lines = [line for line in ptx.splitlines() if not self.also or self.also not in line]
        found = [number for number, line in enumerate(lines) if self.marker in line]
        assert found, self.marker
        for number in found:
            assert self.old in lines[number]
            lines[number] = lines[number].replace(self.old, self.new) if self.old else ""
        return "\n".join(lines) + "\n"


def drop(marker: str, *classes: str, **options: object) -> Mistake:
    return Mistake(marker, classes, **options)  # type: ignore[arg-type]


def edit(marker: str, old: str, new: str, *classes: str, **options: object) -> Mistake:
    return Mistake(marker, classes, old, new, **options)  # type: ignore[arg-type]


FREED = next(line.split("//")[0] for line in pair_kernel(True).splitlines() if "// stage is read" in line)
MISTAKES = {
    # bytes and arrivals at the leader's barrier
    "bytes of the peer not expected": edit("bytes of both", "49152", "24576", "transaction-count"),
    "no bytes expected": edit(
        "bytes of both",
        ".expect_tx.shared::cta.b64 _, [full], 49152",
        ".shared::cta.b64 _, [full]",
        "transaction-count",
    ),
    "too many bytes expected": edit("bytes of both", "49152", "49168", "transaction-count", "deadlock"),
    "both CTAs expect at the leader": edit(
        "bytes of both",
        "@!follower mbarrier.arrive.expect_tx.shared::cta.b64 _, [full]",
        "mbarrier.arrive.expect_tx.release.cluster.shared::cluster.b64 _, [counted]",
        "mbarrier-misuse",
        "transaction-count",
    ),
    "bytes counted in each CTA": edit("loader's barrier", ", 0;", ", rank;", "deadlock", "transaction-count"),
    "bytes counted in the follower": edit("loader's barrier", ", 0;", ", 1;", "deadlock", "transaction-count"),
    "a copy without the pair": edit("[ma, {k, row}]", ".cta_group::2", "", "mbarrier-misuse"),
    "the follower does not load B": edit(
        "[mb, {k, row_b}]", "  cp", "  @!follower cp", "transaction-count", "deadlock"
    ),
    "full counts one too few": edit("// full counts", ", 3;", ", 2;", "race"),
    "full counts one too many": edit("// full counts", ", 3;", ", 4;", "deadlock"),
    # who may run ahead of whom
    "stage not waited for by the loader": edit(
        "// stage is free", "@!p bra FREE;", "", "async-overwrite", "mbarrier-misuse", schedule="adversarial"
    ),
    "stage not waited for by the multiplier": edit(
        "bra LOADED; //", "@!p bra LOADED;", "", "uninitialized-memory", "async-read-early", schedule="adversarial"
    ),
    "commit to the leader alone": edit(
        "// stage is read", ".multicast::cluster.b64 [empty], both", ".b64 [empty]", "deadlock"
    ),
    "commit with mask 0b01": edit("mov.b16 both", ", 3;", ", 1;", "deadlock"),
    "commit with mask 0b10": edit("mov.b16 both", ", 3;", ", 2;", "deadlock"),
    "commit beyond the cluster": edit("mov.b16 both", ", 3;", ", 7;", "out-of-bounds"),
    "stage never freed": drop("// stage is read", "deadlock"),
    "tile never announced": drop("// tile is done", "deadlock"),
    "tile announced to the leader alone": edit(
        "// tile is done", ".multicast::cluster.b64 [part], both", ".b64 [part]", "deadlock"
    ),
    "accumulator not waited for by the readers": edit(
        "bra DONE; //", "@!p bra DONE;", "", "tcgen05-order", "uninitialized-memory", schedule="adversarial"
    ),
    "accumulator not waited for by the multiplier": edit(
        "// accumulator is free", "@!p bra READ;", "", "tcgen05-order", schedule="adversarial"
    ),
    "the peer's readers do not arrive": edit(
        "_, [part]; // accumulator was read", "  mbarrier", "  @!follower mbarrier", "deadlock"
    ),
    "the peer's readers arrive at home": edit("reader's barrier", ", 0;", ", rank;", "deadlock"),
    "only one CTA's readers counted": edit(
        "part_empty counts", "256", "128", "tcgen05-order", "mbarrier-misuse", schedule="adversarial"
    ),
    "stage freed before it is multiplied": edit(
        "bra LOADED; //", "LOADED;", f"LOADED;\n{FREED}", "async-overwrite", "race", also="// stage is read"
    ),
    "only one reader of a warp arrives": edit(
        "_, [part]; // accumulator was read", "  mbarrier", "  setp.eq.u32 p, lane, 0;\n  @p mbarrier", "deadlock"
    ),
    # tcgen05 fences
    "readers do not fence after their wait": edit(
        "tcgen05.fence::after_thread_sync; // tile is", "tcgen05.fence::after_thread_sync;", "", "tcgen05-order"
    ),
    "readers do not fence before they arrive": drop(
        "tcgen05.fence::before_thread_sync; // accumulator was read", "tcgen05-order"
    ),
    "multiplier does not fence after its waits": edit(
        "tcgen05.fence::after_thread_sync; //", "tcgen05.fence::after_thread_sync;", "", "tcgen05-order"
    ),
    "loads not waited for": drop("tcgen05.wait::ld", "tcgen05-order"),
    # scales
    "no proxy fence for scales": drop("fence.proxy.async", "missing-proxy-fence"),
    "no proxy fence for the peer's scales": edit(
        "fence.proxy.async", "fence.proxy", "@!follower fence.proxy", "missing-proxy-fence"
    ),
    "no proxy fence for the leader's scales": edit(
        "fence.proxy.async", "fence.proxy", "@follower fence.proxy", "missing-proxy-fence"
    ),
    "fence before the writes": edit(
        "// all words are read",
        "bar.warp.sync",
        "fence.proxy.async.shared::cta;\n  bar.warp.sync",
        "missing-proxy-fence",
        also="// scales for the tensor core",
    ),
    "one lane fences for the warp, too early": edit(
        "fence.proxy.async", "  fence", "  setp.ne.u32 p, lane, 0;\n  @!p fence", "missing-proxy-fence"
    ),
    "one lane arrives before the others wrote": drop("// all words are written", "race", "missing-proxy-fence"),
    "the peer's arranger does not arrive": edit("// arranged", "  @!p", "  or.pred p, p, follower;\n  @!p", "deadlock"),
    "arranger's barrier of the follower": edit("arranger's barrier", ", 0;", ", 1;", "deadlock"),
    "arranger's barrier at home": edit("arranger's barrier", ", 0;", ", rank;", "deadlock"),
    "arranger arrives relaxed": edit(
        "// arranged", ".release.cluster", ".relaxed.cluster", "race", "missing-proxy-fence"
    ),
    "words not waited for": edit(
        "// words are there", "@!p bra WORDS;", "", "async-read-early", "uninitialized-memory", schedule="adversarial"
    ),
    "too few words expected": edit("// words expected", "1024", "512", "transaction-count"),
    "words of the other CTA's rows": edit("// words of A", "{row, k}", "{zero, k}", WRONG),
    "words of half of B": edit("// words of B", "{zero, k}", "{row_b, k}", WRONG, "tmem-access"),
    "half of B's words arranged": edit(
        "// B's words arranged", "  st.shared", "  setp.gt.u32 q, lane, 15;\n  @!q st.shared", WRONG, "tmem-access"
    ),
    "B's words arranged in the leader alone": edit(
        "// B's words arranged", "  st.shared", "  @!follower st.shared", WRONG, "tmem-access", "missing-proxy-fence"
    ),
    "scales of A not copied": drop("// scales of A", "uninitialized-memory"),
    "scales of B not copied": drop("// scales of B", "uninitialized-memory"),
    "scales of B copied over those of A": edit("// scales of B", "[tb]", "[ta]", "uninitialized-memory", WRONG),
    "scales copied once": edit("// scales of A", "  tcgen05", "  setp.ne.u32 p, step, 0;\n  @!p tcgen05", WRONG),
    "scales without replication": edit(
        "// scales of A", "32x128b.warpx4", "4x256b", "uninitialized-memory", "tmem-access", WRONG
    ),
    "scales over the accumulator": edit("add.u32 ta, taddr", ", 128;", ", 124;", "tcgen05-order", WRONG),
    "scales of B over the accumulator": edit("add.u32 tb, taddr", ", 132;", ", 64;", "tcgen05-order", WRONG),
    "scales outside the allocation": edit("add.u32 ta, taddr", ", 128;", ", 256;", "tmem-allocation", "out-of-bounds"),
    "scale rows further apart": edit("or.b64 sd", "0x400800000000", "0x401000000000", WRONG, "async-read-early"),
    "the id of the first scales": edit("// scale ids 3", "0x60000030", "0x0", WRONG),
    "the id of B's scales": edit("// scale ids 2", "0x40000020", "0x40000000", WRONG),
    "the id of A's scales": edit("// scale ids 2", "0x40000020", "0x20", WRONG),
    # the multiplication
    "an M of 128": edit("mov.u32 idesc", "0x10a00000", "0x8a00000", WRONG, "uninitialized-memory", "descriptor"),
    "an N of 64": edit("mov.u32 idesc", "0x10a00000", "0x10900000", WRONG, "uninitialized-memory"),
    "scale type UE4M3": edit("mov.u32 idesc", "0x10a00000", "0x10200000", WRONG, "descriptor"),
    "both CTAs issue": drop("// the leader multiplies", "deadlock"),
    "both CTAs load the same half of B": edit("mul.lo.u32 row_b", "rank", "zero", WRONG),
    "both CTAs load the same rows of A": edit("mad.lo.u32 row, rank", "rank", "zero", WRONG),
    # allocation and the end
    "barriers not initialised before use": drop("// barriers are initialised", "race", "mbarrier-misuse"),
    "the follower does not allocate": edit("tcgen05.alloc", "  tcgen05", "  @!follower tcgen05", "deadlock"),
    "columns freed before both CTAs are done": drop("// both CTAs are done", "exit-peer", "tcgen05-order"),
    "the follower does not free": edit("tcgen05.dealloc", "  tcgen05", "  @!follower tcgen05", "deadlock"),
    "tensor memory leaked": drop("tcgen05.dealloc", "tmem-allocation"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_caught(name: str) -> None:
    mistake = MISTAKES[name]
    original = pair_kernel(mistake.scaled)
    ptx = mistake.apply(original)
    assert ptx != original
    report, error = run_pair(ptx, mistake.scaled, mistake.schedule)
    named = {str(kind) for kind in report.kinds()}
    if report.completed and not error < TOLERANCE:
        named.add(WRONG)
    assert named & set(mistake.classes), f"want one of {mistake.classes}\n{report}\nerror {error}"


@pytest.mark.skipif(shutil.which("ptxas") is None, reason="no ptxas here: the kernel was not assembled")
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
def test_ptxas_accepts_the_kernel(scaled: bool, tmp_path: Path) -> None:
    (tmp_path / "k.ptx").write_text(pair_kernel(scaled))
    command = ["ptxas", "-arch", "sm_100a", "-o", str(tmp_path / "k.cubin"), str(tmp_path / "k.ptx")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_multicast_copy_counts_where_its_barrier_says() -> None:
    """The signal goes to the CTA of each pair whose rank is as even or odd as that of the barrier given."""
    lines = pair_kernel(False).splitlines()
    (load,) = (number for number, line in enumerate(lines) if "[ma, {k, row}]" in line)
    lines[load] = "  add.u32 x, rank, 1;\n  cvt.u16.u32 both, x; // the own CTA's bit\n" + lines[load].replace(
        "::bytes", "::bytes.multicast::cluster"
    ).replace("[counted]", "[counted], both")
    report, error = run_pair("\n".join(lines), False)
    assert report.ok, str(report)
    assert error < TOLERANCE


def test_bytes_count_in_the_pair_only() -> None:
    """In a cluster of two pairs, the second counts at the first's barrier."""
    ptx = pair_kernel(False).replace(".reqnctapercluster 2", ".reqnctapercluster 4")
    report, _ = run_pair(ptx, False, ctas=4)
    assert any("the data goes to cta" in f.message for f in report.findings if f.kind is Kind.MBARRIER), str(report)


def test_one_kernel_has_one_cta_group() -> None:
    ptx = pair_kernel(True).replace("tcgen05.cp.cta_group::2", "tcgen05.cp.cta_group::1", 1)
    with pytest.raises(EmulationError, match="cta_group::1 and cta_group::2"):
        run_pair(ptx, True)


def test_copies_to_the_own_window_may_count_at_the_leader() -> None:
    ptx = pair_kernel(False)
    for target in ("[area]", "[addr]"):
        old = f".shared::cluster.global.mbarrier::complete_tx::bytes {target}"
        assert old in ptx
        ptx = ptx.replace(old, old.replace("cluster", "cta", 1))
    report, error = run_pair(ptx, False)
    assert report.ok, str(report)
    assert error < TOLERANCE


def test_a_barrier_of_each_cta_is_not_enough_before_columns_are_freed() -> None:
    """The pair frees together, but one CTA may be at it while the other's warps still read."""
    lines = pair_kernel(True).splitlines()
    (meeting,) = (line for line in lines if "both CTAs are done" in line)
    (leave,) = (number for number, line in enumerate(lines) if line == "LEAVE:")
    lines[leave] += f"\n{meeting}"
    lines[lines.index(meeting)] = "  bar.sync 0;"
    report, _ = run_pair("\n".join(lines), True)
    assert any("is freed while" in f.message for f in report.findings if f.kind is Kind.TCGEN05_ORDER), str(report)
