"""The ``gemmgen`` command: what it prints and writes, its exit codes, and that no traceback ever reaches a user.

A small compiler stands in for gemmgen's own, so that what is tested here is the command; NVRTC and the cache are real.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest

from gemmgen.cli import main
from gemmgen.cli.build import Request
from gemmgen.cli.measurement import Measurement, measure
from gemmgen.cli.options import parse_dims
from gemmgen.errors import GemmgenWarning, SpecError
from gemmgen.gpu_problem import problem_bytes, why_not_executed
from gemmgen.passes.base import Pass
from gemmgen.runtime.launch_plan import LaunchPlan, PointerParam, ScalarParam
from gemmgen.schedule import Schedule
from gemmgen.spec import GemmSpec, load_spec, shipped_specs

DIMS = ("--dim", "N=256", "--dim", "K=512")
SOURCE = """\
extern "C" __global__ void stand_in(const unsigned char* a, unsigned short* d, int m) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < m) d[i] = a[i];
}
"""
LAUNCH = LaunchPlan(
    "stand_in", "sm_90a", 128, 1, 4096, (64, 64, 1), True,
    (PointerParam("a", "a"), PointerParam("d", "d"), ScalarParam("m", "int32", "M")),
)  # fmt: skip
TILE_IR = """\
module @tiny level=tile target=sm_90a (%d: gmem<bf16, [M, N]>) {
}
"""


@dataclass(frozen=True)
class StandInArtifact:
    """What the stand-in compiler makes."""

    schedule: Schedule
    name: str = "stand_in"
    source: str = SOURCE
    launch: LaunchPlan = LAUNCH
    cubin_pass: None = None
    ir: Mapping[str, str] = field(
        default_factory=lambda: {"tile": "the tile IR\n", "async": "the async IR\n", "pipelining": "after a pass\n"}
    )


class StandInCompiler:
    """Two kernels for every (N, K)."""

    def plan(self, spec: GemmSpec, target: str, scale_copy: str = "bulk", tuned: Any = None) -> list[Any]:
        small, large = Schedule((64, 64, 128), 4, swap_ab=True), Schedule((128, 128, 128), 5)
        return [
            SimpleNamespace(m_min=0, m_max=64, schedule=small),
            SimpleNamespace(m_min=65, m_max=None, schedule=large),
        ]

    def build(self, spec: GemmSpec, target: str, schedule: Schedule) -> StandInArtifact:
        return StandInArtifact(schedule)


@dataclass
class Result:
    """One command's exit code and output."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Callable[..., Result]]:
    """Run a command in this process, with the stand-in compiler and a cache of its own."""
    monkeypatch.setitem(sys.modules, "gemmgen.compiler", StandInCompiler())  # type: ignore[arg-type]
    monkeypatch.setenv("GEMMGEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("GEMMGEN_DEBUG", raising=False)
    monkeypatch.setattr("gemmgen.runtime.driver.device_count", lambda: 0)
    monkeypatch.setattr("gemmgen.cli.run_command.EMULATED_PRODUCTS", 0)

    def run(*arguments: str) -> Result:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        out, err = capsys.readouterr()
        return Result(int(caught.value.code or 0), out, err)

    with warnings.catch_warnings():
        yield run


def test_compile_writes_everything_needed_to_launch(cli: Callable[..., Result], tmp_path: Path) -> None:
    result = cli("compile", "fp8_gemm_nt", *DIMS, "--target", "sm_90a", "-o", str(tmp_path / "out"))
    assert result.code == 0
    assert "2 kernels" in result.out
    stems = sorted(path.stem for path in (tmp_path / "out").glob("*.json"))
    assert stems == ["fp8_gemm_nt_n256_k512_m0-64_sm_90a", "fp8_gemm_nt_n256_k512_m65-max_sm_90a"]
    manifest = json.loads((tmp_path / "out" / f"{stems[1]}.json").read_text())
    assert (manifest["m_min"], manifest["m_max"], manifest["target"]) == (65, None, "sm_90a")
    assert LaunchPlan.from_dict(manifest["launch"]) == LAUNCH
    assert GemmSpec.from_dict(manifest["spec"]) == load_spec("fp8_gemm_nt").bind(N=256, K=512)
    assert Schedule.from_dict(manifest["schedule"]).tile == (128, 128, 128)
    cubin = (tmp_path / "out" / manifest["files"]["cubin"]).read_bytes()
    assert cubin.startswith(b"\x7fELF")
    assert hashlib.sha256(cubin).hexdigest() == manifest["cubin_sha256"]
    assert (tmp_path / "out" / manifest["files"]["cu"]).read_text() == SOURCE
    assert ".visible .entry stand_in" in (tmp_path / "out" / manifest["files"]["ptx"]).read_text()


def test_compile_one_m(cli: Callable[..., Result], tmp_path: Path) -> None:
    result = cli("compile", "fp8_gemm_nt_split_k", *DIMS, "--dim", "M=65", "-o", str(tmp_path), "--json")
    assert result.code == 0
    [kernel] = result.json["kernels"]
    assert (kernel["m_min"], kernel["m_max"]) == (65, None)
    assert kernel["resources"]["registers"] > 0
    assert Path(kernel["manifest"]).exists()
    assert result.json["dims"] == {"M": 65, "N": 256, "K": 512}
    assert result.json["left_out"][0]["error"] == "TargetError"


def test_compile_into_a_file(cli: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    result = cli("compile", "fp8_gemm_nt", *DIMS, "-o", str(tmp_path / "taken"))
    assert result.code == 1
    assert "the output cannot be written" in result.err


def test_run_without_a_gpu_compiles_and_says_so(cli: Callable[..., Result]) -> None:
    result = cli("run", "fp8_gemm_nt", *DIMS, "--dim", "M=16")
    assert result.code == 0
    assert result.err == ""
    assert "Nothing was executed: this machine has no GPU." in result.out
    assert "64x64x128" in result.out
    assert "registers" in result.out


def test_run_json(cli: Callable[..., Result]) -> None:
    result = cli("run", "fp8_gemm_nt", *DIMS, "--dim", "M=16", "--json")
    assert result.code == 0
    assert result.json["executed"] is False
    assert result.json["passed"] is None
    assert [kernel["target"] for kernel in result.json["kernels"]] == ["sm_90a", "sm_100a", "sm_103a"]


def test_run_on_another_architecture_compiles_only(cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(name="NVIDIA A100", capability=(8, 0))
    monkeypatch.setattr("gemmgen.runtime.driver.device_count", lambda: 1)
    monkeypatch.setattr("gemmgen.runtime.driver.device_properties", lambda _: old)
    result = cli("run", "fp8_gemm_nt", *DIMS, "--dim", "M=16")
    assert result.code == 0
    assert "NVIDIA A100 has compute capability 8.0, not sm_90a's" in result.out
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert why_not_executed("sm_80") == "the installed torch has no CUDA"


class StandInKernel:
    """Computes with torch on the CPU, and is wrong by ``factor``."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, a: Any, b: Any, out: Any = None) -> Any:
        product = (a.dequantize() @ b.dequantize().T * self.factor).bfloat16()
        return product if out is None else out.copy_(product)

    def bind(self, a: Any, b: Any, out: Any) -> Any:
        return lambda: self(a, b, out)


@pytest.mark.parametrize(("factor", "passed"), [(1.0, True), (1.01, False), (float("nan"), False)])
def test_measure(monkeypatch: pytest.MonkeyPatch, factor: float, passed: bool) -> None:
    monkeypatch.setattr("gemmgen.compile", lambda spec, target, tuned: StandInKernel(factor))
    monkeypatch.setattr("gemmgen.gpu_problem.MAX_SETS", 2)
    monkeypatch.setattr("gemmgen.cli.measurement.time_launches_us", lambda launches: 2.0 * len(launches))
    monkeypatch.setattr("gemmgen.runtime.driver.device_properties", lambda _: SimpleNamespace(name="a GPU"))
    spec = load_spec("fp8_gemm_nt").bind(N=128, K=200)
    measured = measure(Request(spec, 40), "sm_90a", seed=0, device="cpu")
    assert measured.passed is passed
    assert measured.time_us == 4.0
    assert measured.tflops == pytest.approx(2 * 40 * 128 * 200 / 4e6)
    assert measured.gbytes_per_s == pytest.approx(problem_bytes(spec, 40, 128, 200) / 4e3)


@pytest.mark.parametrize(
    ("error", "code", "verdict"), [(1e-6, 0, "passed"), (1.0, 1, "FAILED"), (float("nan"), 1, "FAILED")]
)
def test_run_on_a_gpu(
    cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, error: float, code: int, verdict: str
) -> None:
    monkeypatch.setattr("gemmgen.cli.run_command.why_not_executed", lambda _: "")
    measured = Measurement("NVIDIA H200", error, 5e-6, 100.0, 1201.5, 3000.0)
    monkeypatch.setattr("gemmgen.cli.run_command.measure", lambda *_: measured)
    result = cli("run", "fp8_gemm_nt", *DIMS, "--dim", "M=16")
    assert result.code == code
    assert verdict in result.out
    assert "1201.5 TFLOP/s" in result.out
    machine = cli("run", "fp8_gemm_nt", *DIMS, "--dim", "M=16", "--json")
    assert machine.code == code
    assert machine.json["passed"] is (code == 0)
    assert "NaN" not in machine.out


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("spec", "dims: {M: dynamic, N: 256, K: 512}"),
        ("schedule", "65–"),
        ("tile", "the tile IR"),
        ("async", "the async IR"),
        ("pipelining", "after a pass"),
        ("cuda", SOURCE),
        ("ptx", ".target sm_90a"),
        ("resources", "registers"),
    ],
)
def test_inspect(cli: Callable[..., Result], stage: str, expected: str) -> None:
    text = cli("inspect", "fp8_gemm_nt", *DIMS, "--stage", stage)
    assert text.code == 0
    assert expected in text.out
    machine = cli("inspect", "fp8_gemm_nt", *DIMS, "--stage", stage, "--json")
    assert machine.code == 0
    assert machine.json["stage"] == stage
    if "text" in machine.json:
        assert expected in machine.json["text"]
    else:
        assert [kernel["m_min"] for kernel in machine.json["kernels"]] == [0, 65]


def test_inspect_follows_m(cli: Callable[..., Result]) -> None:
    result = cli("inspect", "fp8_gemm_nt", *DIMS, "--dim", "M=3", "--json")
    [kernel] = result.json["kernels"]
    assert kernel["schedule"]["tile"] == [64, 64, 128]


def test_inspected_spec_is_a_spec(cli: Callable[..., Result]) -> None:
    assert load_spec(cli("inspect", "fp8_gemm_nt", "--stage", "spec").out) == load_spec("fp8_gemm_nt")


def test_inspect_sass_without_a_disassembler(cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gemmgen.runtime.disassemble.find_nvdisasm", lambda: None)
    result = cli("inspect", "fp8_gemm_nt", *DIMS, "--stage", "sass")
    assert result.code == 1
    assert "pip install nvidia-cuda-nvdisasm" in result.err


def test_inspect_unknown_stage(cli: Callable[..., Result]) -> None:
    result = cli("inspect", "fp8_gemm_nt", *DIMS, "--stage", "asm")
    assert result.code == 1
    assert "there is no stage asm" in result.err
    assert "pipelining" in result.err


@dataclass(frozen=True)
class RenameModule(Pass):
    """Call the module otherwise."""

    name = "rename-module"

    def apply(self, module: Any) -> Any:
        return dataclasses.replace(module, name="renamed")


@pytest.fixture
def rename_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    from gemmgen.passes import registry

    registry.registered_passes()
    monkeypatch.setitem(registry._PASSES, "rename-module", RenameModule)


@pytest.mark.usefixtures("rename_pass")
def test_opt(cli: Callable[..., Result], tmp_path: Path) -> None:
    path = tmp_path / "tiny.ir"
    path.write_text(TILE_IR)
    assert cli("opt", str(path)).out == TILE_IR
    assert cli("opt", str(path), "-p", "rename-module").out == TILE_IR.replace("@tiny", "@renamed")
    stages = cli("opt", str(path), "-p", "rename-module,rename-module", "--json").json["stages"]
    assert [stage["stage"] for stage in stages] == ["input", "rename-module", "rename-module.2"]


def test_opt_reads_standard_input(cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(TILE_IR))
    assert cli("opt", "-").out == TILE_IR


def test_opt_errors(cli: Callable[..., Result], tmp_path: Path) -> None:
    path = tmp_path / "bad.ir"
    path.write_text(TILE_IR.replace("level=tile", "level=tyle"))
    bad = cli("opt", str(path))
    assert bad.code == 1
    assert f"{path}:1:" in bad.err
    unknown = cli("opt", str(path), "-p", "pipelinin")
    assert unknown.code == 1
    assert "did you mean 'pipelining'?" in unknown.err
    missing = cli("opt", str(tmp_path / "missing.ir"))
    assert missing.code == 1
    assert "cannot be read" in missing.err


def test_opt_lists_passes(cli: Callable[..., Result]) -> None:
    assert "pipelining" in cli("opt", "--list").out
    assert {"name", "levels", "doc"} == cli("opt", "--list", "--json").json[0].keys()


def test_targets(cli: Callable[..., Result]) -> None:
    assert "sm_90a" in cli("targets").out
    records = {record["name"]: record for record in cli("targets", "--json").json}
    assert records["sm_90a"]["supported"] is True
    assert records["sm_90a"]["compute_capability"] == [9, 0]


def test_specs(cli: Callable[..., Result]) -> None:
    assert "fp8_gemm_nt_split_k" in cli("specs").out
    records = cli("specs", "--json").json
    assert {record["name"] for record in records} == shipped_specs().keys()
    assert all(able for record in records for target, able in record["targets"].items() if target == "sm_90a")
    assert all(any(record["targets"].values()) for record in records)


def test_schema(cli: Callable[..., Result]) -> None:
    jsonschema.Draft202012Validator.check_schema(cli("schema").json)
    assert cli("schema", "--json").json == cli("schema").json


def test_cache(cli: Callable[..., Result], tmp_path: Path) -> None:
    assert cli("cache", "info", "--json").json["cubins"] == 0
    cli("compile", "fp8_gemm_nt", *DIMS, "--target", "sm_90a", "-o", str(tmp_path / "out"))
    info = cli("cache", "info", "--json").json
    assert info["cubins"] == 1  # both variants have the same source
    assert info["path"] == str(tmp_path / "cache")
    assert str(tmp_path / "cache") in cli("cache", "info").out
    assert cli("cache", "clear", "--json").json["freed_bytes"] == info["bytes"]
    assert cli("cache", "info", "--json").json["bytes"] == 0
    assert "freed 0.0 MB" in cli("cache", "clear").out


FAILURES: dict[str, tuple[tuple[str, ...], str]] = {
    "missing_spec": (("compile", "nowhere.yaml"), "the spec file does not exist"),
    "missing_dim": (("compile", "fp8_gemm_nt", "--dim", "N=8"), "--dim K=4096"),
    "missing_m": (("run", "fp8_gemm_nt", *DIMS), "--dim M=4096"),
    "unknown_dim": (("inspect", "fp8_gemm_nt", *DIMS, "--dim", "Q=3"), "has no dimension Q"),
    "bad_dim": (("run", "fp8_gemm_nt", "--dim", "M"), "write --dim M=4096"),
    "dim_twice": (("run", "fp8_gemm_nt", "--dim", "M=1", "--dim", "M=2"), "given twice"),
    "negative_dim": (("run", "fp8_gemm_nt", *DIMS, "--dim", "M=-1"), "out of range"),
    "unknown_target": (("compile", "fp8_gemm_nt", *DIMS, "--target", "sm_90"), "did you mean sm_90a?"),
    "unsupported_target": (("compile", "fp8_gemm_nt_split_k", *DIMS, "--target", "sm_100a"), "not supported yet"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failures(cli: Callable[..., Result], case: str) -> None:
    arguments, message = FAILURES[case]
    result = cli(*arguments)
    assert result.code == 1
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert message in result.err
    for label in ("got", "need", "fix"):
        assert f"\n  {label}: " in result.err
    machine = cli(*arguments, "--json")
    assert machine.code == 1
    assert machine.out == ""
    assert {"error", "what", "where", "got", "need", "fix"} == json.loads(machine.err).keys()


@pytest.mark.parametrize("arguments", [("compil",), ("compile",), ("cache", "shrink"), ("targets", "--jsn")])
def test_wrong_usage(cli: Callable[..., Result], arguments: tuple[str, ...]) -> None:
    result = cli(*arguments)
    assert result.code == 2
    assert "Usage" in result.err
    assert "Traceback" not in result.err


def test_unexpected_exceptions_are_one_line(cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def explode() -> None:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr("gemmgen.spec.shipped_specs", explode)
    result = cli("specs")
    assert result.code == 1
    assert result.err == (
        "internal error: ZeroDivisionError: by zero (set GEMMGEN_DEBUG=1 for the traceback, and report it)\n"
    )
    assert json.loads(cli("specs", "--json").err)["error"] == "InternalError"
    monkeypatch.setenv("GEMMGEN_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["specs"])


def test_warnings_are_messages(cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def warn() -> dict[str, Path]:
        warnings.warn("the disk is full", GemmgenWarning)
        return {}

    monkeypatch.setattr("gemmgen.spec.shipped_specs", warn)
    assert cli("specs").err == "warning: the disk is full\n"


def test_parse_dims() -> None:
    assert parse_dims(["M=1", " N = 20 "]) == {"M": 1, "N": 20}
    with pytest.raises(SpecError):
        parse_dims(["M=1.5"])


def test_problem_bytes() -> None:
    spec = load_spec("fp8_gemm_nt")
    # A 3×200 and B 130×200 bytes, D 3×130 bf16; scales 3×2 and 2×2 f32.
    assert problem_bytes(spec, 3, 130, 200) == 600 + 26000 + 780 + 4 * (6 + 4)
    values = spec.to_dict() | {"accumulate": {"dtype": "f32"}}
    for name in "ab":
        values["operands"][name]["scale"] = {"block": [1, 32], "format": "ue8m0"}
    # 7 blocks of 32 make two words per row.
    assert problem_bytes(load_spec(values), 3, 130, 200) == 600 + 26000 + 780 + 4 * (6 + 260)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom gemmgen.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'sympy', 'lark', 'cuda', 'numpy', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "compile" in done.stdout


def test_module_entry_point() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gemmgen.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("gemmgen ")
