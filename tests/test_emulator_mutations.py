"""The emulator can fail: single-edit bugs in PTX, each to be reported with the right class or to change a value.

``WRONG`` in a mutation's classes means that a wrong result counts too. Every kernel is clean before the edit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import emulator_small_kernels as small
import emulator_support as support
import pytest

from gemmgen.emulator import Kind, Report

WRONG = "wrong-value"
Run = Callable[..., tuple[Report, float]]


@dataclass(frozen=True)
class Kernel:
    """A kernel that mutations are made of: its PTX and how to launch it."""

    ptx: Callable[[], str]
    run: Run
    arguments: dict[str, object] = field(default_factory=dict)


KERNELS = {
    "gemm": Kernel(lambda: support.hopper_ptx(1), support.run_hopper, {"shape": (128, 128, 640)}),
    "cluster gemm": Kernel(
        lambda: support.hopper_ptx(2), support.run_hopper, {"shape": (256, 256, 640), "cluster": 2, "grid": 2}
    ),
    "blackwell": Kernel(lambda: support.blackwell_ptx(1, 1), support.run_blackwell, {"group": 1, "scaled": 1}),
    "blackwell pair": Kernel(lambda: support.blackwell_ptx(2, 0), support.run_blackwell, {"group": 2}),
    "cluster": Kernel(lambda: small.CLUSTER, small.run_cluster),
    "apart": Kernel(lambda: small.APART, small.run_apart),
    "copy": Kernel(lambda: small.COPY, small.run_copy),
    "flag": Kernel(lambda: small.FLAG, small.run_flag),
    "send": Kernel(lambda: small.SEND, small.run_send),
    "signal": Kernel(lambda: small.SIGNAL, small.run_signal),
}


@dataclass(frozen=True)
class Mutation:
    """One edit and the classes of which at least one must be named."""

    name: str
    kernel: str
    pattern: str
    replacement: str
    classes: tuple[str, ...]
    occurrence: int | slice | None = 0
    schedule: str = "fifo"


def _drop(
    name: str, kernel: str, pattern: str, *classes: str, occurrence: int | slice | None = 0, schedule: str = "fifo"
) -> Mutation:
    return Mutation(name, kernel, pattern, "", classes, occurrence, schedule)


def _edit(
    name: str,
    kernel: str,
    pattern: str,
    to: str,
    *classes: str,
    occurrence: int | slice | None = 0,
    schedule: str = "fifo",
) -> Mutation:
    return Mutation(name, kernel, pattern, to, classes, occurrence, schedule)


_WAIT = r"mbarrier\.try_wait\.parity\.shared::cta\.b64 p, (\[%r\d+\]), (%r\d+);"
_SKIP = "setp.eq.u32 p, 0, 0;"
_EXPECT = r"(mbarrier\.arrive\.expect_tx(\.shared::cta\.b64 _, \[%r\d+\])), %r\d+;"
_PRODUCER = slice(0, -1)
_LOAD = (
    r"cp\.async\.bulk\.tensor\.2d\.shared::cluster\.global\.mbarrier::complete_tx::bytes "
    r"(\[%r\d+)\], (\[%rd\d+, \{)(%r\d+), (%r\d+)\}\], (\[%r\d+)\];"
)
_STORE = r"cp\.async\.bulk\.tensor\.2d\.global\.shared::cta\.bulk_group (\[%rd\d+, \{%r\d+, %r\d+\}\]), (\[%r\d+)\];"
_DESCRIPTOR = r"(or\.b64  \t%rd\d+, %rd\d+), 4611686293305360384;"
_WGMMA_TAIL = r"(%rd\d+, %rd\d+, p), 1, 1;"
_ARRIVE_EMPTY = r"\tmbarrier\.arrive\.shared::cta\.b64 _, \[%r\d+\];"
_STMATRIX = r"(stmatrix\.sync\.aligned\.m8n8\.x4\.shared\.b16 \[%r\d+)\]"
_CLUSTER_SYNC = r"barrier\.cluster\.arrive\.(release|relaxed)\.aligned;\s+barrier\.cluster\.wait\.acquire\.aligned;"

MUTATIONS = [
    # set-up
    _drop("init without barrier", "gemm", r"bar\.sync \t0;", "race", "mbarrier-misuse", schedule="adversarial"),
    _drop("init without fence", "cluster gemm", r"fence\.mbarrier_init\.release\.cluster;", "race"),
    _drop(
        "init without cluster barrier", "cluster gemm", _CLUSTER_SYNC, "race", "mbarrier-misuse", schedule="adversarial"
    ),
    _edit(
        "full barrier counts 2", "gemm", r"(mbarrier\.init\.shared::cta\.b64 \[%r\d+\]), %r\d+;", r"\1, 2;", "deadlock"
    ),
    _edit(
        "full barrier counts 0",
        "gemm",
        r"(mbarrier\.init\.shared::cta\.b64 \[%r\d+\]), %r\d+;",
        r"\1, 0;",
        "mbarrier-misuse",
    ),
    _edit(
        "empty barrier counts 9",
        "gemm",
        r"(mbarrier\.init\.shared::cta\.b64 \[%r\d+\]), %r\d+;",
        r"\1, 9;",
        "deadlock",
        occurrence=1,
    ),
    _edit(
        "empty barrier counts 7",
        "gemm",
        r"(mbarrier\.init\.shared::cta\.b64 \[%r\d+\]), %r\d+;",
        r"\1, 7;",
        "mbarrier-misuse",
        "async-overwrite",
        occurrence=1,
    ),
    _edit(
        "barrier initialised twice",
        "gemm",
        r"(mbarrier\.init\.shared::cta\.b64 \[%r\d+\], %r\d+;)",
        r"\1\n\1",
        "mbarrier-misuse",
    ),
    _edit(
        "every lane of the producer",
        "gemm",
        r"selp\.b32 (%r\d+), 1, 0, p;",
        r"mov.u32 \1, 1;",
        "mbarrier-misuse",
        "transaction-count",
        occurrence=1,
    ),
    # transaction bytes
    _edit("512 bytes too few expected", "gemm", _EXPECT, r"\1, 32768;", "transaction-count"),
    _edit("16 bytes too many expected", "gemm", _EXPECT, r"\1, 33296;", "transaction-count"),
    _edit("half of the bytes expected", "cluster gemm", _EXPECT, r"\1, 16384;", "transaction-count"),
    _edit("arrive without expecting", "gemm", _EXPECT, r"mbarrier.arrive\2;", "transaction-count", "async-read-early"),
    _drop("a load is missing", "gemm", _LOAD, "transaction-count", occurrence=2),
    # waits
    _edit("consumer does not wait", "gemm", _WAIT, _SKIP, "async-read-early", "uninitialized-memory", occurrence=-1),
    _edit(
        "consumer has the wrong parity",
        "gemm",
        _WAIT,
        r"mbarrier.try_wait.parity.shared::cta.b64 p, \1, 1;",
        "async-read-early",
        "uninitialized-memory",
        occurrence=-1,
    ),
    _edit(
        "consumer's parity never flips",
        "gemm",
        r"xor\.b32  \t(%r\d+), (%r\d+), (%r\d+);(?=(?:(?!xor\.b32)[\s\S])*setp\.lt\.s32)",
        r"mov.u32 \1, \2;",
        "async-read-early",
        "deadlock",
        WRONG,
        occurrence=-1,
    ),
    _edit(
        "consumer does not loop",
        "gemm",
        r"bra WAIT;",
        "bra DONE;",
        "async-read-early",
        "uninitialized-memory",
        occurrence=-1,
        schedule="adversarial",
    ),
    _edit(
        "producer does not wait",
        "cluster gemm",
        _WAIT,
        _SKIP,
        "async-overwrite",
        "mbarrier-misuse",
        occurrence=_PRODUCER,
    ),
    _edit(
        "producer has the wrong parity",
        "gemm",
        _WAIT,
        r"mbarrier.try_wait.parity.shared::cta.b64 p, \1, 0;",
        "deadlock",
        occurrence=_PRODUCER,
    ),
    _edit("wait result not computed", "gemm", _WAIT, "", "uninitialized-register", occurrence=-1),
    _edit(
        "wait on a parity of 2", "gemm", _WAIT, r"mbarrier.try_wait.parity.shared::cta.b64 p, \1, 2;", "mbarrier-misuse"
    ),
    # releases
    _drop("stage never released", "gemm", _ARRIVE_EMPTY, "deadlock"),
    _edit(
        "stage released twice",
        "gemm",
        f"({_ARRIVE_EMPTY})",
        r"\1\n\1",
        "mbarrier-misuse",
        "async-overwrite",
        "deadlock",
    ),
    _edit(
        "arrive beside the barrier",
        "gemm",
        r"(\tmbarrier\.arrive\.shared::cta\.b64 _, \[%r\d+)\];",
        r"\1+64];",
        "mbarrier-misuse",
        "out-of-bounds",
    ),
    _edit(
        "arrive at half a barrier",
        "gemm",
        r"(\tmbarrier\.arrive\.shared::cta\.b64 _, \[%r\d+)\];",
        r"\1+4];",
        "misaligned",
    ),
    _edit(
        "released at one CTA only",
        "cluster gemm",
        r"mapa\.shared::cluster\.u32 ra, (%r\d+), %r\d+;",
        r"mapa.shared::cluster.u32 ra, \1, 0;",
        "mbarrier-misuse",
        "deadlock",
        "async-overwrite",
    ),
    _edit(
        "released at no CTA of the cluster",
        "cluster gemm",
        r"mapa\.shared::cluster\.u32 ra, (%r\d+), %r\d+;",
        r"mapa.shared::cluster.u32 ra, \1, 2;",
        "out-of-bounds",
    ),
    # wgmma
    _drop("no wgmma.fence", "gemm", r"wgmma\.fence\.sync\.aligned;", "missing-wgmma-fence"),
    _drop(
        "no wgmma.commit_group", "gemm", r"wgmma\.commit_group\.sync\.aligned;", "wgmma-register", "wgmma-uncommitted"
    ),
    _drop("no wgmma.wait_group", "gemm", r"wgmma\.wait_group\.sync\.aligned 0;", "wgmma-register"),
    _edit(
        "wgmma.wait_group 1",
        "gemm",
        r"wgmma\.wait_group\.sync\.aligned 0;",
        "wgmma.wait_group.sync.aligned 1;",
        "wgmma-register",
    ),
    _edit(
        "wait after the release",
        "cluster gemm",
        r"(wgmma\.wait_group\.sync\.aligned) 0;",
        r"\1 2;",
        "wgmma-register",
        "async-overwrite",
    ),
    _edit(
        "first wgmma accumulates",
        "gemm",
        r"setp\.ne\.b32 p, (%r\d+), 0;",
        r"setp.eq.b32 p, \1, 0;",
        "uninitialized-register",
        WRONG,
    ),
    _edit("negated A", "gemm", _WGMMA_TAIL, r"\1, -1, 1;", WRONG),
    _edit("A read as e5m2", "gemm", r"m64n128k32\.f32\.e4m3\.e4m3", "m64n128k32.f32.e5m2.e4m3", WRONG),
    _edit(
        "diverged wgmma.fence", "gemm", r"wgmma\.fence\.sync\.aligned;", "@%p6 wgmma.fence.sync.aligned;", "divergence"
    ),
    # descriptors
    _edit("descriptor without swizzle", "gemm", _DESCRIPTOR, r"\1, 274877972480;", WRONG),
    _edit(
        "descriptor with another stride",
        "gemm",
        _DESCRIPTOR,
        r"\1, 4611686155866406912;",
        WRONG,
        "descriptor",
        "uninitialized-memory",
    ),
    _edit("reserved descriptor bit", "gemm", _DESCRIPTOR, r"\1, 4611686293305376768;", "descriptor"),
    _edit("K step too small", "gemm", r"4611686293305360386", "4611686293305360385", WRONG),
    _edit("K step past the swizzle row", "gemm", r"4611686293305360390", "4611686293305360391", "descriptor"),
    _edit(
        "descriptor far outside",
        "gemm",
        _DESCRIPTOR,
        r"\1, 4611686293305376640;\n\tand.b64 %rd10, %rd10, -1;\n\tor.b64 %rd10, %rd10, 16383;",
        "descriptor",
    ),
    # epilogue
    _drop(
        "no proxy fence before the store",
        "gemm",
        r"fence\.proxy\.async\.shared::cta;",
        "missing-proxy-fence",
        occurrence=-1,
    ),
    _edit(
        "only the storing thread fences, before the barrier",
        "gemm",
        r"fence\.proxy\.async\.shared::cta;",
        "@!%p9 fence.proxy.async.shared::cta;",
        "missing-proxy-fence",
        occurrence=-1,
    ),
    _drop("no barrier before the store", "gemm", r"bar\.sync %r\d+, 128;", "race", occurrence=-1),
    _drop("source not waited for", "cluster gemm", r"cp\.async\.bulk\.wait_group\.read 0;", "source-reused"),
    _edit(
        "one group too many allowed",
        "cluster gemm",
        r"cp\.async\.bulk\.wait_group\.read 0;",
        "cp.async.bulk.wait_group.read 1;",
        "source-reused",
    ),
    _drop("no barrier before the next tile", "cluster gemm", r"bar\.sync %r\d+, 128;", "source-reused"),
    _drop("no bulk commit", "cluster gemm", r"cp\.async\.bulk\.commit_group;", "source-reused", "exit-in-flight"),
    _drop("exit before the store is read", "gemm", r"cp\.async\.bulk\.wait_group 0;", "exit-in-flight"),
    _edit("stmatrix misaligned", "gemm", _STMATRIX, r"\1+8]", "misaligned"),
    _edit("stmatrix one row down", "gemm", _STMATRIX, r"\1+128]", WRONG, "race", "uninitialized-memory"),
    _edit(
        "store from a misaligned address",
        "gemm",
        _STORE,
        r"cp.async.bulk.tensor.2d.global.shared::cta.bulk_group \1, \2+64];",
        "misaligned",
    ),
    _edit(
        "store of unwritten memory",
        "gemm",
        _STORE,
        r"cp.async.bulk.tensor.2d.global.shared::cta.bulk_group \1, \2+16384];",
        WRONG,
        "uninitialized-memory",
        "race",
        "out-of-bounds",
        occurrence=1,
    ),
    # named barriers
    _edit("wrong thread count", "gemm", r"(bar\.sync %r\d+), 128;", r"\1, 256;", "deadlock"),
    _edit("count not a multiple of 32", "gemm", r"(bar\.sync %r\d+), 128;", r"\1, 100;", "barrier-misuse"),
    _edit(
        "two groups share a barrier",
        "gemm",
        r"bar\.sync %r\d+, 128;",
        "bar.sync 1, 128;",
        "race",
        "source-reused",
        "barrier-misuse",
        "deadlock",
        occurrence=-1,
        schedule="random",
    ),
    _edit("barrier 16", "gemm", r"bar\.sync %r\d+, 128;", "bar.sync 16, 128;", "barrier-misuse"),
    # TMA
    _edit(
        "load to a misaligned address",
        "gemm",
        _LOAD,
        r"cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes \1+64], \2\3, \4}], \5];",
        "misaligned",
    ),
    _edit(
        "load past shared memory",
        "gemm",
        _LOAD,
        r"cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes \1+200704], \2\3, \4}], \5];",
        "out-of-bounds",
    ),
    _edit(
        "load over the next buffer",
        "gemm",
        _LOAD,
        r"cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes \1+65536], \2\3, \4}], \5];",
        "async-overwrite",
        "uninitialized-memory",
        WRONG,
    ),
    _edit(
        "coordinates exchanged",
        "gemm",
        _LOAD,
        r"cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes \1], \2\4, \3}], \5];",
        WRONG,
        occurrence=3,
    ),
    _edit(
        "signals another barrier",
        "gemm",
        _LOAD,
        r"cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes \1], \2\3, \4}], \5+8];",
        "transaction-count",
        "async-read-early",
    ),
    _edit(
        "not a tensor map",
        "gemm",
        r"cvta\.param\.u64 \t(%rd\d+), (%rd\d+);",
        r"cvta.param.u64 \t\1, \2;\n\tadd.s64 \1, \1, 64;",
        "tensor-map",
        occurrence=1,
    ),
    _edit(
        "multicast misses the peer",
        "cluster gemm",
        r"mov\.u16 \t(%rs\d+), 3;",
        r"mov.u16 \t\1, 1;",
        "transaction-count",
        "deadlock",
        occurrence=None,
    ),
    _edit(
        "multicast beyond the cluster",
        "cluster gemm",
        r"mov\.u16 \t(%rs\d+), 3;",
        r"mov.u16 \t\1, 7;",
        "out-of-bounds",
        occurrence=None,
    ),
    # registers, memory, exit
    _drop("register never written", "gemm", r"mul\.f32 \t%f\d+, %f\d+, %f\d+;", "uninitialized-register"),
    _edit(
        "scale read from a barrier", "gemm", r"(ld\.shared\.f32 %f\d+), \[%r\d+\];", r"\1, [%r90];", "mbarrier-misuse"
    ),
    _edit(
        "global read out of bounds",
        "gemm",
        r"(ld\.global\.nc\.f32 \t%f\d+, \[%rd\d+)\];",
        r"\1+4096];",
        "out-of-bounds",
    ),
    _edit("misaligned shared load", "gemm", r"(ld\.shared\.f32 %f\d+, \[%r\d+)\];", r"\1+2];", "misaligned"),
    _edit(
        "too many registers",
        "gemm",
        r"setmaxnreg\.inc\.sync\.aligned\.u32 232;",
        "setmaxnreg.inc.sync.aligned.u32 240;",
        "register-pool",
    ),
    _edit(
        "dec that increases",
        "gemm",
        r"setmaxnreg\.dec\.sync\.aligned\.u32 40;",
        "setmaxnreg.dec.sync.aligned.u32 176;",
        "register-pool",
    ),
    _drop("exit while the peer arrives", "cluster gemm", _CLUSTER_SYNC, "exit-peer", occurrence=-1),
    _drop(
        "leave without waiting for the cluster",
        "cluster gemm",
        r"barrier\.cluster\.wait\.acquire\.aligned;",
        "exit-peer",
        occurrence=-1,
    ),
    _edit("trap", "gemm", r"bar\.sync \t0;", "trap;", "trap"),
    # small kernels
    _drop("peer read before it wrote", "cluster", _CLUSTER_SYNC, "race", "uninitialized-memory"),
    _drop("peer exits while being read", "cluster", _CLUSTER_SYNC, "exit-peer", occurrence=-1),
    _edit("relaxed cluster barrier", "cluster", r"arrive\.release\.aligned", "arrive.relaxed.aligned", "race"),
    _edit(
        "cluster wait without arrive", "cluster", r"barrier\.cluster\.arrive\.release\.aligned;", "", "barrier-misuse"
    ),
    _drop("first place left out", "apart", _CLUSTER_SYNC, "race", "uninitialized-memory"),
    _drop("second place left out", "apart", _CLUSTER_SYNC, "race", "uninitialized-memory", occurrence=1),
    _edit("relaxed in the first place", "apart", r"arrive\.release\.aligned", "arrive.relaxed.aligned", "race"),
    _edit(
        "relaxed in the second place",
        "apart",
        r"arrive\.release\.aligned",
        "arrive.relaxed.aligned",
        "race",
        occurrence=1,
    ),
    _edit(
        "second place without its last lane",
        "apart",
        r"@q bra AGAIN;",
        "@q bra AGAIN;\n  bra END;",
        "divergence",
        "deadlock",
    ),
    _edit("rank outside the cluster", "cluster", r"xor\.b32 r, r, 1;", "add.u32 r, r, 2;", "out-of-bounds"),
    _edit("remote address in a local load", "cluster", r"ld\.shared::cluster\.b32", "ld.shared.b32", "out-of-bounds"),
    _drop("cp.async not waited for", "copy", r"cp\.async\.wait_group 0;", "race"),
    _drop("cp.async not committed", "copy", r"cp\.async\.commit_group;", "race"),
    _drop("cp.async without a barrier", "copy", r"bar\.sync 0;", "race"),
    _drop("read races with a write", "copy", r"bar\.sync 1, 128;", "race"),
    _drop("bulk store without proxy fence", "copy", r"fence\.proxy\.async\.shared::cta;", "missing-proxy-fence"),
    _drop("bulk store without a barrier", "copy", r"bar\.sync 2, 128;", "race"),
    _edit("bulk store past the output", "copy", r"\[base\], 2048;", "[base], 2064;", "out-of-bounds"),
    _edit("bulk size not a multiple of 16", "copy", r"\[base\], 2048;", "[base], 2040;", "misaligned"),
    _edit("relaxed flag write", "flag", r"st\.release\.gpu", "st.relaxed.gpu", "race"),
    _edit("relaxed flag read", "flag", r"ld\.acquire\.gpu", "ld.relaxed.gpu", "race"),
    _edit("flag never raised", "flag", r"mov\.u32 v, 1;", "mov.u32 v, 0;", "livelock"),
    _edit("st.async bytes too many", "send", r"\[b\], 512;", "[b], 528;", "transaction-count"),
    _edit("st.async bytes too few", "send", r"\[b\], 512;", "[b], 496;", "transaction-count"),
    _edit("st.async read early", "send", r"mbarrier\.try_wait[^;]*;", "setp.eq.u32 q, 0, 0;", "async-read-early"),
    _edit("barrier of another CTA", "send", r"\[rb\];", "[b];", "mbarrier-misuse"),
    _drop("no barrier before remote stores", "send", _CLUSTER_SYNC, "race", "mbarrier-misuse"),
    _drop("lane 0 signals for the warp", "signal", r"bar\.warp\.sync 0xffffffff;", "race"),
    _edit(
        "relaxed arrival", "signal", r"mbarrier\.arrive\.shared::cta", "mbarrier.arrive.relaxed.cta.shared::cta", "race"
    ),
    _edit("relaxed wait", "signal", r"mbarrier\.try_wait\.parity", "mbarrier.try_wait.parity.relaxed.cta", "race"),
    # Blackwell
    _drop("scales without proxy fence", "blackwell", r"fence\.proxy\.async\.shared::cta;", "missing-proxy-fence"),
    _drop("no final commit", "blackwell", r"tcgen05\.commit[^;]*;", "deadlock", occurrence=-1),
    _drop(
        "accumulator not waited for", "blackwell", r"tcgen05\.fence::after_thread_sync;", "tcgen05-order", occurrence=-2
    ),
    _drop("tensor memory leaked", "blackwell", r"tcgen05\.dealloc[^;]*;", "tmem-allocation"),
    _drop("tcgen05.ld not waited for", "blackwell", r"tcgen05\.wait::ld\.sync\.aligned;", "tcgen05-order"),
    _edit(
        "stage freed at the leader only",
        "blackwell pair",
        r"(tcgen05\.commit\.[^;]*, )(%rs\d+);",
        r"\1 1;",
        "deadlock",
        occurrence=None,
    ),
]


def _apply(ptx: str, mutation: Mutation) -> str:
    if isinstance(mutation.occurrence, slice):
        import re

        found = list(re.finditer(mutation.pattern, ptx))[mutation.occurrence]
        assert found
        for match in reversed(found):
            ptx = ptx[: match.start()] + match.expand(mutation.replacement) + ptx[match.end() :]
        return ptx
    return support.edit(ptx, mutation.pattern, mutation.replacement, mutation.occurrence)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.kernel}-{m.name}".replace(" ", "_"))
def test_mutation_is_caught(mutation: Mutation) -> None:
    kernel = KERNELS[mutation.kernel]
    original = kernel.ptx()
    mutated = _apply(original, mutation)
    assert mutated != original
    report, error = kernel.run(mutated, **kernel.arguments, schedule=mutation.schedule)
    named = {str(kind) for kind in report.kinds()}
    if report.completed and not error < support.TOLERANCE:
        named.add(WRONG)
    assert named & set(mutation.classes), f"want one of {mutation.classes}\n{report}\nerror {error}"


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("schedule", ["fifo", "random", "adversarial"])
def test_kernels_are_clean(name: str, schedule: str) -> None:
    kernel = KERNELS[name]
    for seed in range(3):
        report, error = kernel.run(kernel.ptx(), **kernel.arguments, schedule=schedule, seed=seed)
        assert report.ok, str(report)
        assert error < support.TOLERANCE


def test_the_suite_covers_the_classes() -> None:
    covered = {name for mutation in MUTATIONS for name in mutation.classes}
    missing = {str(kind) for kind in Kind} - covered - {str(Kind.TMEM_ACCESS)}
    assert not missing
    assert len(MUTATIONS) >= 60
