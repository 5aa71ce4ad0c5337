"""Kernels on the emulator through the Python API: values, forms of a call, what a wrong kernel looks like."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import gemmgen
from gemmgen import reference
from gemmgen.errors import ArgumentError, EmulationError
from gemmgen.kernel import Kernel
from gemmgen.kernel_args import GemmSignature
from gemmgen.plan import Variant
from gemmgen.reference import gemm_reference, tolerance
from gemmgen.runtime.tensors import read_numpy
from gemmgen.scale_args import scale_copy_of
from gemmgen.spec import load_spec
from gemmgen.verification import dequantized, random_operands, verify, with_default_dims

TARGET = "sm_90a"


def _spec(name: str = "fp8_gemm_nt", n: int = 136, k: int = 272) -> Any:
    return load_spec(name).bind(N=n, K=k)


@pytest.mark.parametrize("name", ["fp8_gemm_nt", "fp8_gemm_nt_split_k", "fp8_gemm_nt_rowwise"])
@pytest.mark.parametrize("m", [1, 20])
def test_shipped_specs_compute_the_product(name: str, m: int) -> None:
    *_, done = verify(_spec(name), m, TARGET)
    assert [check.report.schedule for check in done.checks] == ["fifo", "random", "adversarial"]
    assert done.ok, [str(check.report) for check in done.checks]


def test_scales_of_either_order_give_the_same_bits() -> None:
    outputs = []
    for layout, way in (("mn", "bulk"), ("k", "lanes")):
        (a, sa), (b, sb) = random_operands(_spec(), (24, 136, 272), 3, layout)
        kernel = Kernel(_spec(), TARGET)
        assert scale_copy_of(GemmSignature.of(_spec()).scales, {"sa": read_numpy(sa, "sa")}) == way
        out, report = kernel.emulate(a, sa, b, sb)
        assert report.ok
        outputs.append(np.ascontiguousarray(out).view(np.int16))
    assert np.array_equal(*outputs)


def test_a_call_takes_quantised_tensors_and_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    generator = np.random.default_rng(1)
    a, b = (generator.standard_normal((rows, 144), np.float32) for rows in (8, 64))
    kernel = gemmgen.compile(_spec(n=64, k=144), TARGET)
    quantized = [gemmgen.quantize(x, block) for x, block in ((a, (1, 128)), (b, (128, 128)))]
    tensors = [gemmgen.quantize(torch.from_numpy(x), block) for x, block in ((a, (1, 128)), (b, (128, 128)))]
    first, _ = kernel.emulate(*quantized)
    second, report = kernel.emulate(tensors[0].data, tensors[0].scale, tensors[1].data, tensors[1].scale)
    assert report.ok
    assert np.array_equal(first, second)
    expected = gemmgen.gemm_reference(*quantized)
    assert gemmgen.relative_difference(first.astype(np.float32), expected) < reference.TOLERANCE


def test_empty_problems_run_nothing() -> None:
    (a, sa), (b, sb) = random_operands(_spec(), (0, 136, 272), 0)
    out, report = Kernel(_spec(), TARGET).emulate(a, sa, b, sb)
    assert out.shape == (0, 136)
    assert report.instructions == 0


def test_exact_numerics_stay_within_bf16() -> None:
    (a, sa), (b, sb) = random_operands(_spec(), (8, 136, 272), 0)
    kernel = Kernel(_spec(), TARGET)
    hardware, _ = kernel.emulate(a, sa, b, sb)
    exact, _ = kernel.emulate(a, sa, b, sb, numerics="fp32")
    assert gemmgen.relative_difference(hardware.astype(np.float32), exact.astype(np.float32)) < 1e-5


def test_a_wrong_kernel_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its scales a kernel completes and races nowhere, and its values are wrong."""
    binary = Variant.binary

    def unscaled(self: Variant, strict: bool = False) -> Any:
        found = binary(self, strict)
        ptx = found.ptx.replace("fma.rn.f32", "add.f32") if "fma.rn.f32" in found.ptx else found.ptx
        lines = [_drop_factor(line) for line in ptx.splitlines()]
        return dataclasses.replace(found, ptx="\n".join(lines))

    def _drop_factor(line: str) -> str:
        if "add.f32" not in line or line.count(",") != 3:
            return line
        head, target, value, _, addend = line.replace("add.f32", "add.f32 ").replace(",", " ").split()[0:5]
        return f"\t{head} \t{target}, {value}, {addend}"

    monkeypatch.setattr(Variant, "binary", unscaled)
    *_, done = verify(_spec(), 8, TARGET, schedules=("fifo",))
    assert not done.ok
    assert done.checks[0].difference > reference.TOLERANCE


def test_refusals_name_the_argument() -> None:
    (a, sa), (b, sb) = random_operands(_spec(), (8, 136, 272), 0)
    kernel = Kernel(_spec(), TARGET)
    with pytest.raises(ArgumentError) as caught:
        kernel.emulate(a, sa, b[:, :128], sb)
    assert (caught.value.where, caught.value.got) == ("b", "128")
    with pytest.raises(ArgumentError, match="runs on the CPU"):
        kernel.emulate([1, 2], sa, b, sb)
    with pytest.raises(EmulationError):
        kernel.emulate(a, sa, b, sb, schedule="backwards")
    with pytest.raises(ArgumentError, match="takes scales here"):
        kernel.emulate(a, None, b, sb)
    with pytest.raises(ArgumentError, match="wrong shape"):
        kernel.emulate(a, sa[:, :2], b, sb)
    with pytest.raises(ArgumentError, match="wrong element type"):
        kernel.emulate(a, sa.view(np.uint32), b, sb)


def test_dimensions_nobody_gives_have_tails() -> None:
    dims = with_default_dims(load_spec("fp8_gemm_nt"), {"N": 64})
    assert dims["N"] == 64
    assert all(dims[name] % 128 for name in ("M", "K"))


def _scaled(a: tuple[list[Any], str], b: tuple[list[Any], str], layout: str = "NT") -> Any:
    """The FP8 spec with other scales, each a block and a format."""
    values = load_spec("fp8_gemm_nt").to_dict()
    values["problem"]["layout"] = layout
    for name, (block, kind) in (("a", a), ("b", b)):
        values["operands"][name]["scale"] = {"block": block, "format": kind}
    values["accumulate"] = {"dtype": "f32"}
    return load_spec(values)


PACKED_32, PACKED_128, ROWS = ([1, 32], "ue8m0"), ([1, 128], "ue8m0"), ([1, 128], "f32")


@pytest.mark.parametrize("layout", ["NT", "TN"])
@pytest.mark.parametrize(("a", "b"), [(PACKED_32, PACKED_128), (PACKED_128, PACKED_32), (ROWS, ROWS)])
def test_random_operands_of_other_scales(a: Any, b: Any, layout: str) -> None:
    spec = _scaled(a, b, layout)
    (left, sa), (right, sb) = random_operands(spec, (9, 20, 300), 5)
    assert (left.shape, right.shape) == (((9, 300), (20, 300)) if layout == "NT" else ((300, 9), (300, 20)))
    plain = [dequantized(spec, "a", left, sa), dequantized(spec, "b", right, sb)]
    expected = gemm_reference(*plain, layout)
    factors = [part.dequantize() for part in _by_rows(plain, layout)]
    np.testing.assert_allclose(expected, factors[0] @ factors[1].T, rtol=1e-5, atol=1e-4)


def _by_rows(plain: list[Any], layout: str) -> list[Any]:
    return plain if layout == "NT" else [dataclasses.replace(part, data=part.data.T) for part in plain]


def test_neighbouring_packed_scales_differ_by_binades() -> None:
    (_, sa), _ = random_operands(_scaled(PACKED_32, PACKED_32), (16, 8, 512), 0)
    codes = gemmgen.unpack_exponents(sa, 16).astype(int)
    apart = np.abs(np.diff(codes, axis=1))
    assert apart.mean() > 2
    assert apart.max() >= 5
    assert np.abs(np.diff(codes, axis=0)).mean() > 2


@pytest.mark.parametrize(
    ("name", "target", "loose"),
    [
        ("fp8_gemm_nt", "sm_90a", False),
        ("fp8_gemm_nt_no_promotion", "sm_90a", True),
        ("fp8_gemm_nt_no_promotion", "sm_100a", False),
        ("bf16_gemm_nt", "sm_90a", False),
    ],
)
def test_only_few_bits_that_are_never_promoted_excuse_an_error(name: str, target: str, loose: bool) -> None:
    wanted = reference.TOLERANCE_WITHOUT_PROMOTION if loose else reference.TOLERANCE
    assert tolerance(load_spec(name), target) == wanted
    assert tolerance(_scaled(PACKED_32, PACKED_128), "sm_100a") == reference.TOLERANCE
