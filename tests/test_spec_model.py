"""The model: Python construction equals YAML, canonical text, binding of dimensions, positions, support."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from gemmgen.errors import SpecError, TargetError
from gemmgen.spec import (
    Accumulate,
    GemmSpec,
    Operand,
    Operands,
    Problem,
    Scale,
    ScheduleHints,
    load_spec,
    shipped_specs,
)
from gemmgen.spec.frozen_map import FrozenMap
from gemmgen.spec.support import ASPECTS, SUPPORTED, supported_targets, unsupported_reason
from gemmgen.spec.vocabulary import DTYPES, KINDS, TARGETS


def make(**changes: Any) -> GemmSpec:
    """An FP8 spec built from plain Python values."""
    values: dict[str, Any] = {
        "name": "fp8_gemm_nt",
        "problem": {"kind": "dense", "dims": {"M": "dynamic", "N": "dynamic", "K": "dynamic"}},
        "operands": {
            "a": {"dtype": "e4m3", "scale": {"block": (1, 128)}},
            "b": {"dtype": "e4m3", "scale": {"block": (128, 128)}},
            "d": {"dtype": "bf16"},
        },
        "targets": ("sm_90a", "sm_100a", "sm_103a"),
    }
    return GemmSpec(**(values | changes))


def with_dims(**dims: int | str) -> GemmSpec:
    return make(problem=Problem(kind="dense", dims={"M": "dynamic", "N": "dynamic", "K": "dynamic"} | dims))


def test_python_equals_yaml() -> None:
    typed = GemmSpec(
        name="fp8_gemm_nt",
        problem=Problem(kind="dense", layout="NT", dims={"K": "dynamic", "N": "dynamic", "M": "dynamic"}),
        operands=Operands(
            a=Operand(dtype="e4m3", scale=Scale(block=(1, 128), format="f32")),
            b=Operand(dtype="e4m3", scale=Scale(block=(128, 128), format="f32")),
            d=Operand(dtype="bf16"),
        ),
        accumulate=Accumulate(dtype="f32", promote_every=128),
        targets=("sm_90a", "sm_100a", "sm_103a"),
    )
    loaded = load_spec("fp8_gemm_nt")
    assert typed == make() == loaded
    assert typed.canonical() == make().canonical() == loaded.canonical()
    assert hash(typed) == hash(loaded)


def test_canonical_text() -> None:
    spec = make(schedule={"tile": [128, 256, 128], "swap_ab": True}, problem={
        "kind": "dense", "dims": {"I": "dynamic", "N": "2*I", "K": 7168, "M": "dynamic"}})  # fmt: skip
    assert (
        spec.canonical()
        == """\
gemmgen: 1
name: fp8_gemm_nt
problem:
  kind: dense
  layout: NT
  dims: {M: dynamic, N: "2 * I", K: 7168, I: dynamic}
operands:
  a: {dtype: e4m3, scale: {block: [1, 128], format: f32}}
  b: {dtype: e4m3, scale: {block: [128, 128], format: f32}}
  c: null
  d: {dtype: bf16, scale: null}
accumulate:
  dtype: f32
  promote_every: 128
epilogue: acc
schedule:
  tile: [128, 256, 128]
  stages: auto
  cluster: auto
  warps: {producer: auto, math: auto}
  registers: {producer: auto, math: auto}
  scheduler: auto
  split_k: auto
  swap_ab: true
  cta_group: auto
  raster: {group: auto, along: auto}
  pdl: auto
  promotion_overlap: auto
  scales_ahead: auto
  promotion_burst: auto
  lookahead: auto
  unroll: auto
  deal_columns: auto
  evict_first: auto
  epilogue_overlap: auto
targets: [sm_90a, sm_100a, sm_103a]
"""
    )


@pytest.mark.parametrize("name", sorted(shipped_specs()))
def test_canonical_text_loads_as_the_same_spec(name: str) -> None:
    spec = load_spec(name)
    assert load_spec(spec.canonical()) == spec
    assert load_spec(spec.to_dict()) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_values_are_coerced() -> None:
    spec = make(schedule={"tile": [np.int64(64), 128, 128], "cluster": (2, 1), "warps": "auto", "stages": None})
    assert spec.schedule == ScheduleHints(tile=(64, 128, 128), cluster=(2, 1))
    assert type(spec.schedule.tile[0]) is int  # type: ignore[index]
    assert make(schedule="auto") == make()


def test_equal_spelling_of_expressions() -> None:
    written = make(epilogue="( silu(acc[gate]) )*acc[ up ]", operands=bf16())
    assert written.epilogue == "silu(acc[gate]) * acc[up]"
    assert with_dims(N="(2*K)").problem.dims["N"] == "2 * K"
    assert with_dims(N="4096") == with_dims(N=4096)


def bf16(**more: Any) -> dict[str, Any]:
    return {"a": {"dtype": "bf16"}, "b": {"dtype": "bf16"}, "d": {"dtype": "bf16"}, **more}


def test_promotion_follows_the_scale_blocks() -> None:
    assert make().accumulate.promote_every == 128
    assert make(operands=bf16()).accumulate.promote_every is None
    fine = {"a": {"dtype": "e4m3", "scale": {"block": [1, 32]}}, "b": {"dtype": "e5m2"}, "d": {"dtype": "f32"}}
    assert make(operands=fine).accumulate.promote_every == 32
    packed = {"block": [1, 32], "format": "ue8m0"}
    block_scaled = {"a": {"dtype": "e4m3", "scale": packed}, "b": {"dtype": "e2m1", "scale": packed},
                    "d": {"dtype": "bf16"}}  # fmt: skip
    assert make(operands=block_scaled).accumulate.promote_every is None


def test_residual_and_quantised_output() -> None:
    assert make(operands=bf16(c={"dtype": "bf16"}), epilogue="acc+c").epilogue == "acc + c"
    narrow = bf16() | {"d": {"dtype": "e4m3", "scale": {"block": [1, 128]}}}
    assert make(operands=narrow, epilogue="quantize(acc, 1x128, e4m3)").operands.d.dtype == "e4m3"
    with pytest.raises(SpecError, match="other blocks"):
        make(operands=narrow, epilogue="quantize(acc, 1x32, e4m3)")


BAD_PYTHON: dict[str, tuple[dict[str, Any], str]] = {
    "kind": ({"problem": {"kind": "dens", "dims": {}}}, "problem.kind"),
    "dims": ({"problem": {"kind": "dense", "dims": {"M": 1, "N": -2, "K": 3}}}, "problem.dims.N"),
    "dim_text": ({"problem": {"kind": "dense", "dims": {"M": 1, "N": "M+X", "K": 3}}}, "problem.dims.N:3"),
    "tile": ({"schedule": {"tile": (128, 128, True)}}, "schedule.tile.2"),
    "hints_key": ({"schedule": {"tle": (128, 128, 128)}}, "schedule.tle"),
    "epilogue": ({"epilogue": "acc +"}, "epilogue:6"),
    "targets": ({"targets": "sm_90a"}, "targets"),
    "name": ({"name": None}, "name"),
    "operand": ({"operands": 7}, "operands"),
    "version": ({"version": 2}, "gemmgen"),
    "block_float": ({"operands": bf16(a={"dtype": "e4m3", "scale": {"block": [1.0, 128]}})}, "operands.a.scale.block"),
    "block_flag": ({"operands": bf16(a={"dtype": "e4m3", "scale": {"block": [True, 128]}})}, "operands.a.scale.block"),
    "too_many_dims": ({"problem": {"kind": "dense", "dims": {f"A{i}": 1 for i in range(40)}}}, "problem.dims"),
}


@pytest.mark.parametrize("case", BAD_PYTHON)
def test_bad_python_values(case: str) -> None:
    changes, where = BAD_PYTHON[case]
    with pytest.raises(SpecError) as caught:
        make(**changes)
    assert caught.value.where == where
    assert caught.value.got
    assert caught.value.need
    assert caught.value.fix


def test_missing_argument() -> None:
    with pytest.raises(SpecError, match="missing key name") as caught:
        GemmSpec(problem=make().problem)
    assert caught.value.where == "spec"


def test_position_without_a_file() -> None:
    assert make().position("schedule.tile") == "schedule.tile"


def test_position_of_a_key_left_out() -> None:
    spec = load_spec("fp8_gemm_nt")
    assert spec.position("schedule.pdl") == spec.position("schedule")
    assert spec.position("schedule").endswith("fp8_gemm_nt.yaml:24:3")


def test_bind() -> None:
    spec = make().bind(N=4096, K=np.int32(7168))
    assert dict(spec.problem.dims) == {"M": "dynamic", "N": 4096, "K": 7168}
    assert spec.bind(N=4096) == spec
    assert spec.bind() is spec
    assert make().bind(M=0).problem.dims["M"] == 0


def test_bind_keeps_positions() -> None:
    spec = load_spec("fp8_gemm_nt")
    assert spec.bind(N=8).position("problem.dims.N") == spec.position("problem.dims.N")


def test_bind_resolves_expressions() -> None:
    spec = with_dims(I="dynamic", N="2 * I", K="ceildiv(N, 3)")
    assert str(spec.dim("K")) == "ceiling(2*I/3)"
    bound = spec.bind(I=8)
    assert dict(bound.problem.dims) == {"M": "dynamic", "N": 16, "K": 6, "I": 8}
    assert spec.bind(I=8, N=16) == bound
    assert spec.bind(M=3).problem.dims["N"] == "2 * I"


@pytest.mark.parametrize(
    ("dims", "what"),
    [
        ({"Q": 1}, "has no dimension Q"),
        ({"n": 1}, "did you mean N?"),
        ({"M": -1}, "out of range"),
        ({"M": 2**31}, "out of range"),
        ({"M": 1.0}, "must be an integer"),
        ({"M": "8"}, "must be an integer"),
        ({"M": True}, "must be an integer"),
        ({"M": None}, "must be an integer"),
        ({"P": 9}, "fixed by the spec"),
        ({"N": 16}, "bind I instead"),
        ({"I": 8, "N": 15}, "fixed by the spec"),
        ({"I": 2**31 - 1}, "out of range"),
        ({"J": 3}, "no integer value"),
    ],
)
def test_bad_bindings(dims: dict[str, Any], what: str) -> None:
    spec = with_dims(I="dynamic", N="2 * I", J="dynamic", K="J / 2", P=8)
    with pytest.raises(SpecError, match=what.replace("?", r"\?")) as caught:
        spec.bind(**dims)
    assert caught.value.where
    assert caught.value.got
    assert caught.value.need
    assert caught.value.fix


def test_dim_as_sympy() -> None:
    import sympy

    spec = with_dims(N=4096)
    assert spec.dim("M") == sympy.Symbol("M", integer=True, positive=True)
    assert spec.dim("N") == 4096
    with pytest.raises(SpecError, match="no dimension Q"):
        spec.dim("Q")


def test_frozen_map() -> None:
    one = FrozenMap({"a": 1, "b": 2})
    assert one == {"b": 2, "a": 1}
    assert hash(one) == hash(FrozenMap({"b": 2, "a": 1}))
    assert list(one) == ["a", "b"]
    with pytest.raises(TypeError):
        one["a"] = 3  # type: ignore[index]


@pytest.mark.parametrize("name", ["fp8_gemm_nt", "fp8_gemm_nt_split_k", "fp8_gemm_nt_no_promotion"])
def test_supported(name: str) -> None:
    assert unsupported_reason(load_spec(name), "sm_90a") is None


UNSUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "tf32": ({"operands": {"a": {"dtype": "tf32"}, "b": {"dtype": "tf32"}, "d": {"dtype": "bf16"}}}, "bf16"),
    "kind": ({"problem": {"kind": "m_grouped_masked", "dims": {"G": 1, "M": 1, "N": 1, "K": 1}}}, "dense"),
    "promote": ({"accumulate": {"promote_every": 64}}, "128"),
    "epilogue": ({"epilogue": "acc + bias[n]"}, "acc"),
    "stream_k": ({"schedule": {"scheduler": "stream_k"}}, "split_k"),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_not_supported_yet(case: str) -> None:
    changes, nearest = UNSUPPORTED[case]
    error = unsupported_reason(make(**changes), "sm_90a")
    assert isinstance(error, TargetError)
    assert "not supported yet" in error.what
    assert error.where
    assert error.got
    assert nearest in (error.need or "")
    assert error.fix


def test_what_the_hardware_cannot_do_is_told_apart_from_what_is_not_supported_yet() -> None:
    problem = {"kind": "dense", "layout": "TN", "dims": {"M": 1, "N": 1, "K": 1}}
    error = unsupported_reason(make(problem=problem), "sm_90a")
    assert error is not None
    assert "reads FP8 with K contiguous only" in error.what
    assert (error.where, error.got, error.need) == ("problem.layout", "TN", "NT")
    assert unsupported_reason(make(problem=problem, operands=bf16()), "sm_90a") is None


def test_known_target_that_cannot_be_built_yet() -> None:
    error = unsupported_reason(make(), "sm_100a")
    if "sm_100a" in supported_targets():
        assert error is None
    else:
        assert error is not None
        assert "not supported yet" in error.what


def test_unknown_and_unlisted_targets() -> None:
    unknown = unsupported_reason(make(), "sm_90")
    assert unknown is not None
    assert unknown.fix == "did you mean sm_90a?"
    unlisted = unsupported_reason(make(targets=["sm_100a"]), "sm_90a")
    assert unlisted is not None
    assert unlisted.fix == "add sm_90a to the spec's targets"


def test_support_table_uses_known_words() -> None:
    for row in SUPPORTED:
        assert set(row.targets) <= TARGETS.keys()
        assert set(row.kind) <= KINDS.keys()
        for words in (row.a, row.b, row.d):
            assert {word.split()[0] for word in words} <= DTYPES.keys()
        assert all(getattr(row, name) for name in ASPECTS)


def test_light_import() -> None:
    code = (
        "import sys, gemmgen.spec as s; s.load_spec('fp8_gemm_nt').bind(N=8).canonical();"
        "print([m for m in ('lark', 'sympy', 'torch', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
