"""What an emulation found: findings with their place in PTX, CUDA and IR, and the report that collects them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from gemmgen.emulator.ptx.program import Program


class Kind(StrEnum):
    """Classes of findings."""

    UNINITIALIZED_REGISTER = "uninitialized-register"
    UNINITIALIZED_MEMORY = "uninitialized-memory"
    OUT_OF_BOUNDS = "out-of-bounds"
    MISALIGNED = "misaligned"
    RACE = "race"
    ASYNC_READ_EARLY = "async-read-early"
    ASYNC_OVERWRITE = "async-overwrite"
    SOURCE_REUSED = "source-reused"
    PROXY_FENCE = "missing-proxy-fence"
    WGMMA_FENCE = "missing-wgmma-fence"
    WGMMA_REGISTER = "wgmma-register"
    WGMMA_UNCOMMITTED = "wgmma-uncommitted"
    MBARRIER = "mbarrier-misuse"
    TRANSACTION = "transaction-count"
    BARRIER = "barrier-misuse"
    DIVERGENCE = "divergence"
    DESCRIPTOR = "descriptor"
    TENSOR_MAP = "tensor-map"
    EXIT_IN_FLIGHT = "exit-in-flight"
    EXIT_PEER = "exit-peer"
    REGISTER_POOL = "register-pool"
    TMEM_ALLOCATION = "tmem-allocation"
    TMEM_ACCESS = "tmem-access"
    TCGEN05_ORDER = "tcgen05-order"
    TRAP = "trap"
    DEADLOCK = "deadlock"
    LIVELOCK = "livelock"


@dataclass(frozen=True)
class Place:
    """Where an instruction is.

    Attributes:
        ptx_line: line of the PTX, from 1.
        ptx: the instruction's text.
        cuda_line: line of the CUDA source in the kernel's body, or None without ``-lineinfo``.
        ir_op: the IR operation that a comment in the CUDA source names, or None.
    """

    ptx_line: int
    ptx: str
    cuda_line: int | None = None
    ir_op: str | None = None

    def __str__(self) -> str:
        text = f"PTX {self.ptx_line}: {self.ptx[:100]}"
        if self.cuda_line:
            text += f" [CUDA line {self.cuda_line}]"
        return text + (f" [{self.ir_op}]" if self.ir_op else "")


@dataclass
class Finding:
    """One thing that is wrong with the kernel.

    Attributes:
        kind: its class.
        message: a sentence.
        place: the instruction it was noticed at, or None.
        other: the other instruction involved, or None.
        who: the thread, warp or engine, such as ``cta 0 warp 3``.
        count: how often it happened; findings of one kind and place are merged.
    """

    kind: Kind
    message: str
    place: Place | None = None
    other: Place | None = None
    who: str = ""
    count: int = 1

    def __str__(self) -> str:
        lines = [f"{self.kind}: {self.message}" + (f" ({self.who})" if self.who else "")]
        if self.place:
            lines.append(f"  at {self.place}")
        if self.other:
            lines.append(f"  against {self.other}")
        if self.count > 1:
            lines.append(f"  {self.count} times")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, object]:
        """The same facts for ``--json``."""
        return {
            "kind": str(self.kind),
            "message": self.message,
            "who": self.who,
            "ptx_line": self.place.ptx_line if self.place else None,
            "cuda_line": self.place.cuda_line if self.place else None,
            "ir_op": self.place.ir_op if self.place else None,
            "other_ptx_line": self.other.ptx_line if self.other else None,
            "count": self.count,
        }


class LaunchAborted(Exception):
    """The launch cannot go on; the finding is already in the report."""


@dataclass
class Report:
    """The outcome of one emulated launch.

    Attributes:
        findings: what is wrong, in order of discovery.
        completed: whether every thread exited.
        instructions: warp instructions executed.
        seed: scheduler seed.
        schedule: ``fifo``, ``random`` or ``adversarial``.
        counters: what ran, by name (TMA loads, wgmma, mbarrier phases …).
    """

    findings: list[Finding] = field(default_factory=list)
    completed: bool = False
    instructions: int = 0
    seed: int = 0
    schedule: str = "fifo"
    counters: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """The launch ran to its end and nothing was found."""
        return self.completed and not self.findings

    def kinds(self) -> set[Kind]:
        """The classes of all findings."""
        return {finding.kind for finding in self.findings}

    def __str__(self) -> str:
        state = "completed" if self.completed else "did not complete"
        head = f"{state}: {self.instructions} warp instructions, schedule {self.schedule}, seed {self.seed}"
        return "\n".join([head, *(str(f) for f in self.findings)])


class Recorder:
    """Collects findings and resolves instruction indices to places.

    Args:
        program: the kernel.
        source: its CUDA source, for the comments that name IR ops, or None.
    """

    MAX_FINDINGS = 64

    def __init__(self, program: Program, source: str | None, report: Report) -> None:
        self.program = program
        self.report = report
        self._source = source.splitlines() if source else []
        self._known: dict[tuple[Kind, int, int], Finding] = {}

    def add(self, kind: Kind, message: str, pc: int | None, who: str = "", other_pc: int | None = None) -> None:
        """Record a finding at instruction ``pc``, merging repeats."""
        key = (kind, -1 if pc is None else pc, -1 if other_pc is None else other_pc)
        if key in self._known:
            self._known[key].count += 1
            return
        finding = Finding(kind, message, self.place(pc), self.place(other_pc), who)
        self._known[key] = finding
        if len(self.report.findings) < self.MAX_FINDINGS:
            self.report.findings.append(finding)

    def fatal(
        self, kind: Kind, message: str, pc: int | None, who: str = "", other_pc: int | None = None
    ) -> LaunchAborted:
        """Record a finding after which the launch cannot go on; raise what is returned."""
        self.add(kind, message, pc, who, other_pc)
        return LaunchAborted(message)

    def place(self, pc: int | None) -> Place | None:
        """The place of an instruction index."""
        if pc is None or not 0 <= pc < len(self.program.instructions):
            return None
        instruction = self.program.instructions[pc]
        text = self.program.text[instruction.line - 1].strip() if self.program.text else instruction.opcode
        location = instruction.location
        cuda_line = location.call_line if location else None
        return Place(instruction.line, text, cuda_line, self._ir_op(cuda_line))

    def _ir_op(self, cuda_line: int | None) -> str | None:
        """The op that the nearest comment at or above the line names at its end: ``// … [op]``."""
        if cuda_line is None or not self._source:
            return None
        for line in reversed(self._source[: min(cuda_line, len(self._source))]):
            found = re.search(r"//.*\[([\w.\-]+)\]\s*$", line)
            if found:
                return found.group(1)
            if line.startswith("}"):
                return None
        return None
