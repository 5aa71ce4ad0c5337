"""A compiled spec that is called like a function: checks, kernel selection, launch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from gemmgen.call_forms import unpack
from gemmgen.errors import ArgumentError, TargetError
from gemmgen.kernel_args import ArgumentChecker, GemmSignature
from gemmgen.plan import Compiler, Plan, Variant
from gemmgen.runtime import driver
from gemmgen.runtime.cache import Cache, default_cache
from gemmgen.runtime.disassemble import disassemble
from gemmgen.runtime.dtypes import ITEM_BYTES, TORCH_ATTRIBUTES
from gemmgen.runtime.launch import NoLaunch, PackedLaunch, Problem, ZeroFill
from gemmgen.runtime.nvrtc import Resources
from gemmgen.runtime.tensormap import ALIGN_BYTES
from gemmgen.runtime.tensors import current_stream, is_torch_tensor, stream_handle
from gemmgen.scale_args import scale_copy_of
from gemmgen.tuning.file import UNTUNED, TunedFile

if TYPE_CHECKING:
    from gemmgen.spec import GemmSpec

_MAX_LAUNCHES = 1024
_NO_LAUNCH = NoLaunch()

Launch = PackedLaunch | ZeroFill | NoLaunch


class Kernel:
    """The kernels of one spec for one target, compiled when first needed.

    Calls work on torch tensors, on DLPack and ``__cuda_array_interface__`` objects, and on ``QuantizedTensor``. They
    run in the tensors' own context and, for torch, on its current stream; they return before the GPU is done. Calls
    from several threads are safe.

    Args:
        spec: a supported spec; dimensions that are still dynamic are specialised per (N, K) on call, M never is.
        target: architecture, e.g. ``sm_90a``.
        strict: raise ``NotCompiledError`` where a call would have to compile.
        cache: where compiled kernels are kept; the user's cache folder by default.
        compiler: stands in for ``gemmgen.compiler``.
        tuned: measured schedules, which go before the heuristics' choices.
    """

    def __init__(
        self,
        spec: GemmSpec,
        target: str,
        *,
        strict: bool = False,
        cache: Cache | None = None,
        compiler: Compiler | None = None,
        tuned: TunedFile | None = None,
    ) -> None:
        self.spec = spec
        self.target = target
        self.strict = strict
        self._signature = GemmSignature.of(spec)
        self._checker = ArgumentChecker(self._signature)
        self._cache = cache
        self._tuned = tuned
        self._import_compiler: Callable[[], Any] = lambda: compiler or import_module("gemmgen.compiler")
        self._plans: dict[tuple[int, int, str], Plan] = {}
        self._launches: dict[Any, Launch] = {}
        self._lock = threading.Lock()
        self._checked_devices: set[int] = set()

    def __repr__(self) -> str:
        dims = ", ".join(f"{name}={size}" for name, size in self.spec.problem.dims.items())
        return f"Kernel({self.spec.name}, {self.target}, {dims})"

    def __call__(
        self,
        a: Any,
        sa: Any = None,
        b: Any = None,
        sb: Any = None,
        out: Any = None,
        stream: Any = None,
        num_sms: int | None = None,
    ) -> Any:
        """Compute ``out = a @ bᵀ``; ``kernel(a, sa, b, sb)``, ``kernel(qa, qb)`` and ``kernel((a, sa), (b, sb))``.

        Operands without scales are passed as ``kernel(a, b)``.

        Args:
            a: ``[M, K]``; ``[K, M]`` in layouts TN and TT.
            sa: its scales, ``[ceil(M / rows), ceil(K / cols)]`` of the spec's block, f32; for
                packed scales words of four exponents as ``gemmgen.pack_exponents`` makes them, or exponents that lie
                like such words; any strides.
            b: ``[N, K]``; ``[K, N]`` in layouts NN and TN.
            sb: its scales.
            out: ``[M, N]``; allocated if left out, which needs torch inputs.
            stream: an integer handle or stream object; by default torch's current stream, or the default stream.
            num_sms: how many SMs the kernel may occupy; all by default.

        Returns:
            ``out``.

        Raises:
            ArgumentError: an argument is wrong; nothing was launched.
            NotCompiledError: strict mode, and the kernel is not compiled.
        """
        if sa is None or sb is None:
            a, sa, b, sb = unpack(self._signature, a, sa, b, sb)
        if out is None:
            out = self._allocate(a, b)
        try:
            raw = current_stream(a.get_device()) if stream is None else stream_handle(stream)
            launch = self._launches[_call_key(a, sa, b, sb, out, num_sms)]
        except (AttributeError, KeyError, TypeError, RuntimeError):
            return self._call_first_time(a, sa, b, sb, out, stream, num_sms)
        launch.launch(raw)
        return out

    def bind(
        self,
        a: Any,
        sa: Any = None,
        b: Any = None,
        sb: Any = None,
        out: Any = None,
        num_sms: int | None = None,
    ) -> BoundCall:
        """Check everything once and return a callable that only launches; arguments are those of a call."""
        if sa is None or sb is None:
            a, sa, b, sb = unpack(self._signature, a, sa, b, sb)
        if out is None:
            out = self._allocate(a, b)
        launch, problem = self._prepare(a, sa, b, sb, out, 0, num_sms)
        return BoundCall(launch, (a, sa, b, sb), out, problem.device if is_torch_tensor(a) else None)

    def plan(self, *, scale_copy: str = "bulk", **dims: int) -> Plan:
        """The finite set of kernels that serves every M of one (N, K).

        Args:
            scale_copy: ``bulk`` plans for row scales as ``gemmgen.quantize`` makes them, column by column and 16-byte
                aligned; ``lanes`` for those of any other strides, which a warp gathers.
            dims: the dimensions that the spec leaves dynamic, M excepted.

        Raises:
            SpecError: a dimension is unknown or contradicts the spec.
            ArgumentError: N or K is still dynamic.
        """
        spec = self.spec.bind(**dims)
        sizes = spec.problem.dims
        n, k = sizes["N"], sizes["K"]
        if not isinstance(n, int) or not isinstance(k, int):
            missing = [name for name in ("N", "K") if not isinstance(sizes[name], int)]
            raise ArgumentError(
                "a plan is for one N and K",
                where="plan",
                got=", ".join(f"{name}={sizes[name]}" for name in missing),
                need=" and ".join(missing),
                fix=f"call kernel.plan({', '.join(f'{name}=…' for name in missing)})",
            )
        return self._plan_for(n, k, scale_copy)

    def variant(self, **dims: int) -> Variant:
        """The kernel that serves these dimensions; without M, the one for the largest problems."""
        m = dims.pop("M", self._signature.m)
        plan = self.plan(scale_copy="bulk", **dims)
        return plan.variants[-1] if m is None else plan.variant_for(m)

    @property
    def source(self) -> str:
        """CUDA source of the default variant (see :meth:`variant`)."""
        return self.variant().source

    @property
    def ptx(self) -> str:
        """PTX of the default variant."""
        return self.variant().binary(self.strict).ptx

    @property
    def sass(self) -> str:
        """SASS of the default variant, if a disassembler is installed."""
        binary = self.variant().binary(self.strict)
        return disassemble(binary.cubin, binary.launch.entry)

    @property
    def schedule(self) -> Any:
        """Every decision made for the default variant."""
        return self.variant().schedule

    @property
    def resources(self) -> Resources:
        """Registers, spills and shared memory of the default variant."""
        return self.variant().binary(self.strict).resources

    def ir(self, stage: str) -> str:
        """IR text of the default variant after a stage or pass, e.g. ``tile`` or ``warp-specialize``.

        Raises:
            ArgumentError: there is no such stage.
        """
        texts = self.variant().artifact.ir
        if stage not in texts:
            raise ArgumentError(
                "no such stage", where="stage", got=repr(stage), need=", ".join(texts), fix="use one of these names"
            )
        return texts[stage]

    def emulate(
        self,
        a: Any,
        sa: Any = None,
        b: Any = None,
        sb: Any = None,
        *,
        seed: int = 0,
        schedule: str = "fifo",
        numerics: str = "hardware",
        num_sms: int = 4,
    ) -> tuple[Any, Any]:
        """Run the call on the emulator instead of a GPU, in the forms that a call takes.

        Args:
            a: ``[M, K]``, NumPy or torch on the CPU, or quantised.
            sa: its scales.
            b: ``[N, K]``.
            sb: its scales.
            seed: of the emulator's scheduler.
            schedule: ``fifo``, ``random`` or ``adversarial``.
            numerics: ``hardware`` (the tensor cores' accumulation rule) or ``fp32``.
            num_sms: SMs that the grid is made for.

        Returns:
            D as a NumPy array, and the report of what was found.
        """
        from gemmgen.verification import emulate_call

        if sa is None or sb is None:
            a, sa, b, sb = unpack(self._signature, a, sa, b, sb)
        return emulate_call(self, a, sa, b, sb, seed=seed, schedule=schedule, numerics=numerics, num_sms=num_sms)

    def _call_first_time(self, a: Any, sa: Any, b: Any, sb: Any, out: Any, stream: Any, num_sms: int | None) -> Any:
        """The call whose operands have not been seen yet: checks, and compiles, loads and packs if need be."""
        raw = 0 if stream is None else stream_handle(stream)
        launch, problem = self._prepare(a, sa, b, sb, out, raw, num_sms)
        if all(operand is None or is_torch_tensor(operand) for operand in (a, sa, b, sb, out)):
            self._remember(_call_key(a, sa, b, sb, out, num_sms), launch)
            if stream is None:
                raw = current_stream(problem.device)
        launch.launch(raw)
        return out

    def _prepare(
        self, a: Any, sa: Any, b: Any, sb: Any, out: Any, stream: int, num_sms: int | None
    ) -> tuple[Launch, Problem]:
        if num_sms is not None and (type(num_sms) is not int or num_sms < 1):
            raise ArgumentError("no kernel fits on that", where="num_sms", got=repr(num_sms), need="a positive integer")
        arguments = {"a": a, "sa": sa, "b": b, "sb": sb, "out": out}
        problem = self._checker.check(arguments, stream)
        if problem.is_empty:
            return _NO_LAUNCH, problem
        self._check_device(problem.device)
        in_torch = is_torch_tensor(a)
        context = (driver.primary_context if in_torch else driver.context_for)(problem.device)
        if problem.k == 0:
            return ZeroFill(problem.operands["d"], context), problem
        plan = self._plan_for(problem.n, problem.k, scale_copy_of(self._signature.scales, problem.operands))
        launcher = plan.variant_for(problem.m).launcher(self.strict)
        return launcher.pack(problem, context, num_sms), problem

    def _plan_for(self, n: int, k: int, scale_copy: str) -> Plan:
        plan = self._plans.get((n, k, scale_copy))
        if plan is None:
            with self._lock:
                plan = self._plans.get((n, k, scale_copy))
                if plan is None:
                    spec = self.spec.bind(N=n, K=k)
                    tuned = UNTUNED if self._tuned is None else self._tuned.for_plan(n, k, scale_copy)
                    cache = self._cache or default_cache()
                    plan = Plan(spec, self.target, self._import_compiler, cache, scale_copy, tuned)
                    self._plans[n, k, scale_copy] = plan
        return plan

    def _remember(self, key: Any, launch: Launch) -> None:
        with self._lock:
            if len(self._launches) >= _MAX_LAUNCHES:
                del self._launches[next(iter(self._launches))]
            self._launches[key] = launch

    def _allocate(self, a: Any, b: Any) -> Any:
        """An output for torch inputs, with rows padded to what TMA needs."""
        if not (is_torch_tensor(a) and is_torch_tensor(b) and a.ndim == b.ndim == 2):
            raise ArgumentError(
                "the output cannot be allocated",
                where="out",
                got=f"a is {type(a).__name__}, b is {type(b).__name__}",
                need="two torch matrices, or out=",
                fix="pass out=",
            )
        torch = import_module("torch")
        dtype = self._signature.d_dtype
        per_line = ALIGN_BYTES // ITEM_BYTES[dtype]
        m, _, n, _ = self._signature.sizes(a.shape, b.shape)
        pitch = -(-n // per_line) * per_line
        out = torch.empty((m, pitch), dtype=getattr(torch, TORCH_ATTRIBUTES[dtype]), device=a.device)
        return out if pitch == n else out[:, :n]

    def _check_device(self, device: int) -> None:
        """Refuse a GPU that cannot run this target before the driver does so in its own words."""
        if device in self._checked_devices:
            return
        properties = driver.device_properties(device)
        if capability_of(self.target) != properties.capability:
            raise TargetError(
                "the kernel is compiled for another architecture",
                where=f"device {device}",
                got=f"{properties.name}, compute capability {'{}.{}'.format(*properties.capability)}",
                need="a GPU that runs " + self.target,
                fix="compile with target=None, which chooses this GPU's, if the spec has it",
            )
        self._checked_devices.add(device)


class BoundCall:
    """A checked call with its operands: calling it is one launch.

    It keeps its operands alive and reads their current contents at every call.

    Args:
        launch: what to launch.
        inputs: tensors to keep alive.
        out: the output, which calls return.
        torch_device: device whose torch stream is the default; None for the default stream.
    """

    __slots__ = ("_device", "_inputs", "_launch", "out")

    def __init__(self, launch: Launch, inputs: tuple[Any, ...], out: Any, torch_device: int | None) -> None:
        self._launch = launch.launch
        self._inputs = inputs
        self._device = torch_device
        self.out = out

    def __call__(self, stream: Any = None) -> Any:
        """Launch on ``stream``, by default torch's current one, and return the output."""
        if stream is not None:
            self._launch(stream_handle(stream))
        elif self._device is None:
            self._launch(0)
        else:
            self._launch(current_stream(self._device))
        return self.out


def capability_of(target: str) -> tuple[int, int]:
    """Compute capability of a target: ``sm_90a`` is (9, 0), ``sm_103a`` is (10, 3)."""
    digits = "".join(character for character in target if character.isdigit())
    return int(digits[:-1]), int(digits[-1])


def _call_key(a: Any, sa: Any, b: Any, sb: Any, out: Any, num_sms: int | None) -> Any:
    """Everything about torch operands that a packed launch and the checks depend on."""
    return (
        a.data_ptr(), a.shape, a.stride(), a.dtype, a.get_device(),
        b.data_ptr(), b.shape, b.stride(), b.dtype, b.get_device(),
        out.data_ptr(), out.shape, out.stride(), out.dtype, out.get_device(),
        sa is None or (sa.data_ptr(), sa.shape, sa.stride(), sa.dtype, sa.get_device()),
        sb is None or (sb.data_ptr(), sb.shape, sb.stride(), sb.dtype, sb.get_device()),
        num_sms,
    )  # fmt: skip
