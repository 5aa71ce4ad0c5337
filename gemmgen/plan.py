"""The finite set of kernels that serves every M of one (N, K), compiled lazily and cached."""

from __future__ import annotations

import json
import os
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from gemmgen import dump
from gemmgen.errors import GemmgenError, NotCompiledError
from gemmgen.runtime import nvrtc
from gemmgen.runtime.cache import Cache, digest
from gemmgen.runtime.fingerprint import code_fingerprint
from gemmgen.runtime.launch import Launcher
from gemmgen.runtime.launch_plan import LaunchPlan
from gemmgen.runtime.nvrtc import Resources
from gemmgen.tuning.file import UNTUNED, TunedEntry, TunedPlan

if TYPE_CHECKING:
    from gemmgen.spec import GemmSpec


class CubinPass(Protocol):
    """A change to a cubin after ptxas."""

    @property
    def key(self) -> str:
        """Its name and version, for the cache's keys."""
        ...

    def __call__(self, cubin: bytes, entry: str) -> tuple[bytes, int]:
        """The changed cubin of the kernel ``entry``, and how many instructions the change concerns."""
        ...


class Artifact(Protocol):
    """What the compiler makes of one spec and schedule; nothing of it needs NVRTC."""

    @property
    def name(self) -> str:
        """The kernel's entry symbol."""
        ...

    @property
    def source(self) -> str:
        """The CUDA source."""
        ...

    @property
    def launch(self) -> LaunchPlan:
        """How to launch the kernel."""
        ...

    @property
    def ir(self) -> Mapping[str, str]:
        """IR text by stage or pass name, in pipeline order."""
        ...

    @property
    def schedule(self) -> Any:
        """Every decision that was made, printable."""
        ...

    @property
    def pass_ms(self) -> Mapping[str, float]:
        """Milliseconds that each pass took."""
        ...

    @property
    def cubin_pass(self) -> CubinPass | None:
        """What changes the cubin after ptxas; None leaves it as it is."""
        ...


class PlanEntry(Protocol):
    """The compiler's choice for a range of M."""

    @property
    def m_min(self) -> int:
        """Smallest M."""
        ...

    @property
    def m_max(self) -> int | None:
        """Largest M; None for no limit."""
        ...

    @property
    def schedule(self) -> Any:
        """The schedule for these M."""
        ...

    @property
    def tuned(self) -> tuple[TunedEntry, ...]:
        """The measurements that the schedule comes from; none where the compiler chose it."""
        ...


class Compiler(Protocol):
    """What ``gemmgen.compiler`` offers."""

    def plan(self, spec: GemmSpec, target: str, scale_copy: str, tuned: TunedPlan) -> Sequence[PlanEntry]:
        """The kernels for every M of a spec whose other dimensions are fixed, by ascending M; tuned ones first."""
        ...

    def build(self, spec: GemmSpec, target: str, schedule: Any) -> Artifact:
        """Generate the source for one schedule."""
        ...


@dataclass(frozen=True)
class Binary:
    """One compiled kernel: everything that is needed to launch it or to look at it.

    Attributes:
        key: content hash of what decided it.
        cubin: ELF image, as it is launched.
        ptx: PTX text.
        source: CUDA source.
        launch: how to launch it.
        resources: registers, spills, shared memory.
        promotion_burst: FFMAs that stay and keep their scale because a pass over the cubin found them in a run.
    """

    key: str
    cubin: bytes
    ptx: str
    source: str
    launch: LaunchPlan
    resources: Resources
    promotion_burst: int = 0

    @classmethod
    def from_parts(cls, key: str, parts: Mapping[str, bytes], launch: LaunchPlan) -> Binary:
        """Rebuild from a cache entry and the launch plan."""
        resources = Resources.from_dict(json.loads(parts["resources"]))
        texts = parts["ptx"].decode(), parts["source"].decode()
        return cls(key, parts["cubin"], *texts, launch, resources, int(parts["promotion_burst"]))


class Variant:
    """One kernel of a plan, for ``m_min <= M <= m_max``. It compiles itself when first needed.

    Args:
        plan: the plan it belongs to.
        m_min: smallest M.
        m_max: largest M; None for no limit.
        index: its position in the plan.
    """

    def __init__(self, plan: Plan, m_min: int, m_max: int | None, index: int) -> None:
        self.m_min = m_min
        self.m_max = m_max
        self._plan = plan
        self._index = index
        self._lock = threading.Lock()
        self._launcher: Launcher | None = None
        self._binary: Binary | None = None

    def __repr__(self) -> str:
        upper = "∞" if self.m_max is None else self.m_max
        return f"Variant(M={self.m_min}..{upper}, {'compiled' if self.is_compiled else 'not compiled'})"

    @property
    def is_compiled(self) -> bool:
        """Whether the kernel is in memory."""
        return self._binary is not None

    @property
    def schedule(self) -> Any:
        """Every decision that was made for this kernel."""
        return self._plan.entries[self._index].schedule

    @property
    def tuned(self) -> tuple[TunedEntry, ...]:
        """The measurements that the schedule comes from; none where the compiler chose it."""
        return self._plan.entries[self._index].tuned

    @cached_property
    def artifact(self) -> Artifact:
        """The compiler's output; runs the compiler, not NVRTC."""
        plan = self._plan
        return plan.compiler.build(plan.spec, plan.target, self.schedule)

    @property
    def source(self) -> str:
        """CUDA source: what a cache holds, else generated now; NVRTC is not needed."""
        if self._binary is None:
            self._binary = self._find()
        return self.artifact.source if self._binary is None else self._binary.source

    def binary(self, strict: bool = False) -> Binary:
        """The compiled kernel, from memory, from the disk cache, or compiled now.

        Args:
            strict: raise instead of compiling.

        Raises:
            NotCompiledError: in strict mode, if no cache has it.
            CompileError: NVRTC refused the source.
        """
        if self._binary is None:
            with self._lock:
                if self._binary is None:
                    self._binary = self._find() or self._compile(strict)
        return self._binary

    def launcher(self, strict: bool = False) -> Launcher:
        """The kernel, ready to be loaded and launched; arguments and errors are those of :meth:`binary`."""
        if self._launcher is None:
            binary = self.binary(strict)
            self._launcher = Launcher(binary.launch, binary.cubin, binary.key)
        return self._launcher

    def _request_key(self) -> str:
        return self._plan.request_key(f"variant {self.m_min} {self.m_max}")

    def _find(self) -> Binary | None:
        """The kernel that the disk cache has for this request, without running the compiler."""
        cache = self._plan.cache
        document = cache.lookup(self._request_key())
        if document is None:
            return None
        parts = cache.get("cubin", document["cubin"])
        return (
            None
            if parts is None
            else Binary.from_parts(document["cubin"], parts, LaunchPlan.from_dict(document["launch"]))
        )

    def _compile(self, strict: bool) -> Binary:
        if strict:
            upper = "and more" if self.m_max is None else f"to {self.m_max}"
            raise NotCompiledError(
                "this call needs a kernel that is not compiled",
                where=self._plan.spec.name,
                got=f"the kernel for M = {self.m_min} {upper} on {self._plan.target}",
                need="every kernel of the plan compiled beforehand, since strict mode is on",
                fix=f"call kernel.plan({self._plan.arguments}).compile() first",
            )
        artifact, target = self.artifact, self._plan.target
        version = "{}.{}".format(*nvrtc.nvrtc_version())
        options = " ".join(nvrtc.compile_options(target))
        after = "" if artifact.cubin_pass is None else artifact.cubin_pass.key
        key = digest("cubin", artifact.source, artifact.name, options, version, nvrtc.nvrtc_identity(), target, after)
        started = time.perf_counter()
        parts = self._plan.cache.get_or_make("cubin", key, lambda: _compile_parts(artifact, target))
        self._plan.cache.record(self._request_key(), {"cubin": key, "launch": artifact.launch.to_dict()})
        binary = Binary.from_parts(key, parts, artifact.launch)
        if dump.root() is not None:
            self._dump(binary, 1000.0 * (time.perf_counter() - started))
        return binary

    def _dump(self, binary: Binary, compile_ms: float) -> None:
        """Write the kernel beside its IR, with the time that each pass and NVRTC (or its cache) took."""
        artifact, target = self.artifact, self._plan.target
        folder = dump.folder_of(artifact.name, target, self.schedule)
        timings = {**artifact.pass_ms, "nvrtc or cache": compile_ms}
        dump.write_kernel(folder, artifact.name, binary.source, binary.ptx, binary.cubin, timings)


class Plan:
    """All kernels of one spec whose dimensions are fixed but for M.

    Args:
        spec: the spec, with N and K fixed.
        target: architecture, e.g. ``sm_90a``.
        compiler: the compiler, or a function that imports it when it is needed.
        cache: where kernels are kept.
        scale_copy: ``bulk`` where row scales lie column by column, ``lanes`` for scales of any strides.
        tuned: measured schedules, which go before the compiler's own choices.
    """

    def __init__(
        self,
        spec: GemmSpec,
        target: str,
        compiler: Callable[[], Compiler],
        cache: Cache,
        scale_copy: str = "bulk",
        tuned: TunedPlan = UNTUNED,
    ) -> None:
        self.spec = spec
        self.target = target
        self.cache = cache
        self.scale_copy = scale_copy
        self.tuned = tuned
        self._import_compiler = compiler
        self._base_key = digest(
            spec.canonical(),
            target,
            scale_copy,
            tuned.key,
            code_fingerprint(),
            *nvrtc.compile_options(target),
            nvrtc.nvrtc_identity(),
        )
        ranges = self._ranges()
        self.variants = tuple(Variant(self, low, high, index) for index, (low, high) in enumerate(ranges))
        self._starts = [low for low, _ in ranges]

    def __len__(self) -> int:
        return len(self.variants)

    def __iter__(self) -> Iterator[Variant]:
        return iter(self.variants)

    def __repr__(self) -> str:
        compiled = sum(variant.is_compiled for variant in self.variants)
        return f"Plan({self.spec.name}, {self.target}: {len(self)} kernels, {compiled} compiled)"

    @cached_property
    def compiler(self) -> Compiler:
        """The compiler; importing it takes a while, so a warm cache never does."""
        return self._import_compiler()

    @cached_property
    def entries(self) -> tuple[PlanEntry, ...]:
        """The compiler's choices, one per variant."""
        return tuple(self.compiler.plan(self.spec, self.target, self.scale_copy, self.tuned))

    def variant_for(self, m: int) -> Variant:
        """The kernel that serves ``m`` rows."""
        return self.variants[max(0, bisect_right(self._starts, m) - 1)]

    def compile(self, jobs: int | None = None, progress: Callable[[Variant], None] | None = None) -> Plan:
        """Compile every kernel, several at a time; needs no GPU.

        Args:
            jobs: threads; the number of processors by default. NVRTC runs outside Python's lock, so they scale.
            progress: called with each kernel when it is done, from the thread that compiled it.
        """

        def compile_one(variant: Variant) -> None:
            variant.binary()
            if progress is not None:
                progress(variant)

        with ThreadPoolExecutor(max_workers=max(1, jobs or os.cpu_count() or 1)) as pool:
            for done in [pool.submit(compile_one, variant) for variant in self.variants]:
                done.result()
        return self

    def load(self, device: int = 0) -> Plan:
        """Load every kernel on a GPU, so that CUDA-graph capture works from the first call on."""
        for variant in self.variants:
            variant.launcher().load(device)
        return self

    @property
    def arguments(self) -> str:
        """What ``Kernel.plan`` must be given to return this plan, as text."""
        return "" if self.scale_copy == "bulk" else f'scale_copy="{self.scale_copy}"'

    def request_key(self, what: str) -> str:
        """Key of something that this plan's spec, target, tuned schedules and compiler decide."""
        return digest(self._base_key, what)

    def _ranges(self) -> list[tuple[int, int | None]]:
        """The variants' M ranges: from the cache's index if it has them, so that the compiler is not needed."""
        key = self.request_key("plan")
        document = self.cache.lookup(key)
        if document is not None:
            return [(low, high) for low, high in document["ranges"]]
        ranges = [(entry.m_min, entry.m_max) for entry in self.entries]
        _check_ranges(self.spec.name, ranges)
        self.cache.record(key, {"ranges": ranges})
        return ranges


def _check_ranges(name: str, ranges: list[tuple[int, int | None]]) -> None:
    """A plan must serve every M: ranges join without gaps and the last one is open."""
    ends = [high for _, high in ranges]
    joined = all(low == end + 1 for (low, _), end in zip(ranges[1:], ends[:-1], strict=True) if end is not None)
    if not ranges or ranges[0][0] > 1 or ends[-1] is not None or None in ends[:-1] or not joined:
        raise GemmgenError("the plan does not serve every M", where=name, got=ranges, need="ranges that join up")


def _compile_parts(artifact: Artifact, target: str) -> dict[str, bytes]:
    compiled = nvrtc.compile_cuda(artifact.source, artifact.name, target)
    after = artifact.cubin_pass
    cubin, bursting = (compiled.cubin, 0) if after is None else after(compiled.cubin, artifact.name)
    return {
        "cubin": cubin,
        "promotion_burst": str(bursting).encode(),
        "ptx": compiled.ptx.encode(),
        "source": artifact.source.encode(),
        "resources": json.dumps(compiled.resources.to_dict()).encode(),
    }
