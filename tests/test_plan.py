"""Plans: every M is served, kernels are compiled once, and a warm cache needs neither the compiler nor NVRTC."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from runtime_fakes import Entry, SmallCompiler, small_spec

from gemmgen.errors import GemmgenError, NotCompiledError
from gemmgen.plan import Plan
from gemmgen.runtime import nvrtc
from gemmgen.runtime.cache import Cache

DIMS = {"N": 256, "K": 512}


def make_plan(folder: Path | None, compiler: SmallCompiler, **dims: int) -> Plan:
    return Plan(small_spec(**(dims or DIMS)), "sm_90a", lambda: compiler, Cache(folder))


def test_every_m_has_its_kernel() -> None:
    plan = make_plan(None, SmallCompiler())
    assert len(plan) == 2
    assert [plan.variant_for(m).m_min for m in (0, 1, 64, 65, 10**9)] == [1, 1, 1, 65, 65]
    assert [variant.schedule for variant in plan] == ["small", "large"]
    assert repr(plan) == "Plan(fp8_gemm, sm_90a: 2 kernels, 0 compiled)"
    assert repr(plan.variants[1]) == "Variant(M=65..∞, not compiled)"


@pytest.mark.parametrize(
    "ranges", [[], [(1, 64)], [(1, 64), (66, None)], [(2, None)], [(1, None), (65, None)], [(1, 64), (64, None)]]
)
def test_plans_with_gaps_are_refused(ranges: list[tuple[int, int | None]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SmallCompiler, "plan", lambda *_: [Entry(low, high, "x") for low, high in ranges])
    with pytest.raises(GemmgenError, match="does not serve every M"):
        make_plan(None, SmallCompiler())


def test_compile_builds_every_kernel_in_parallel(tmp_path: Path) -> None:
    compiler, done = SmallCompiler(), []
    plan = make_plan(tmp_path, compiler).compile(jobs=2, progress=done.append)
    assert sorted(compiler.builds) == ["large", "small"]
    assert sorted(variant.m_min for variant in done) == [1, 65]
    assert all(variant.is_compiled for variant in plan)
    binary = plan.variants[0].binary()
    assert binary.cubin.startswith(b"\x7fELF")
    assert "gemm_small" in binary.ptx
    assert binary.launch.entry == "gemm_small"
    assert binary.resources.registers > 0
    assert binary.source == plan.variants[0].source


def test_a_warm_cache_runs_neither_compiler_nor_nvrtc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_plan(tmp_path, SmallCompiler()).compile()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("must not run")

    monkeypatch.setattr(nvrtc, "_nvrtc", refuse)
    second = Plan(small_spec(**DIMS), "sm_90a", refuse, Cache(tmp_path))  # type: ignore[arg-type]
    found = second.variant_for(100).binary(strict=True)
    assert found == first.variant_for(100).binary()
    assert second.variants[0].source == first.variants[0].source


def test_requests_differ_by_dims_target_and_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_plan(tmp_path, SmallCompiler()).compile()
    other_dims = SmallCompiler()
    make_plan(tmp_path, other_dims, N=256, K=1024).variants[0].binary()
    assert other_dims.builds == ["small"]
    monkeypatch.setattr("gemmgen.plan.code_fingerprint", lambda: "another version")
    other_code = SmallCompiler()
    make_plan(tmp_path, other_code).variants[0].binary()
    assert (other_code.plans, other_code.builds) == (1, ["small"])


def test_equal_sources_share_a_cubin_and_others_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_plan(tmp_path, SmallCompiler()).compile()
    monkeypatch.setattr("gemmgen.plan.code_fingerprint", lambda: "another version")
    make_plan(tmp_path, SmallCompiler()).compile()
    assert Cache(tmp_path).info().cubins == 2
    make_plan(tmp_path, SmallCompiler(body="// changed\n"), N=512, K=512).compile()
    assert Cache(tmp_path).info().cubins == 4


def test_damage_anywhere_is_repaired(tmp_path: Path) -> None:
    make_plan(tmp_path, SmallCompiler()).compile()
    for path in tmp_path.rglob("*.entry"):
        path.write_bytes(path.read_bytes()[:-5])
    compiler = SmallCompiler()
    make_plan(tmp_path, compiler).compile()
    assert sorted(compiler.builds) == ["large", "small"]
    silent = SmallCompiler()
    make_plan(tmp_path, silent).compile()
    assert (silent.plans, silent.builds) == (0, [])


def test_strict_mode_raises_until_compiled(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, SmallCompiler())
    with pytest.raises(NotCompiledError, match=r"M = 65 and more on sm_90a") as caught:
        plan.variants[1].binary(strict=True)
    assert caught.value.fix is not None
    assert "plan().compile()" in caught.value.fix
    plan.compile()
    assert plan.variants[1].binary(strict=True).cubin


def test_threads_compile_one_kernel_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    real = nvrtc.compile_cuda

    def count(source: str, name: str, target: str, want_ptx: bool = True) -> nvrtc.Compiled:
        compiled.append(name)
        return real(source, name, target, want_ptx)

    monkeypatch.setattr(nvrtc, "compile_cuda", count)
    plans = [make_plan(tmp_path, SmallCompiler()) for _ in range(2)]
    threads = [threading.Thread(target=plan.variants[0].binary) for plan in plans for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert compiled == ["gemm_small"]
