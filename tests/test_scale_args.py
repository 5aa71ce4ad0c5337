"""The scales of a call: packed or not, read in place or refused, and the way they reach shared memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gemmgen import quantize
from gemmgen.emulator.plan import _Binder
from gemmgen.errors import ArgumentError
from gemmgen.kernel_args import ArgumentChecker, GemmSignature
from gemmgen.runtime import tensors
from gemmgen.runtime.launch_plan import TensorMapParam
from gemmgen.runtime.tensors import read_numpy, read_tensor
from gemmgen.scale_args import ScaleRule, check_scale, scale_copy_of
from gemmgen.scales import pack_exponents
from gemmgen.spec import load_spec

PACKED = ScaleRule((1, 32), "ue8m0")
M, N, K = 6, 208, 512  # 16 blocks of 32, 4 words


def packed_words(rows: int = M, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.full((rows, 4), 0x7F7F7F7F, dtype=torch.int32).view(dtype)


def exponents(rows: int = M, blocks: int = 16) -> torch.Tensor:
    return torch.full((rows, blocks), 127, dtype=torch.uint8)


@pytest.mark.parametrize(
    "scale",
    [
        packed_words(),
        packed_words(dtype=torch.uint32),
        packed_words().T.contiguous().T,
        torch.zeros(12, 9, dtype=torch.int32)[::2, 1::2],
    ],
    ids=["int32", "uint32", "along rows", "strided"],
)
def test_words_are_taken_with_any_strides(scale: torch.Tensor) -> None:
    given = read_tensor(scale, "sa")
    assert check_scale(given, M, K, PACKED) is given


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float8_e8m0fnu])
@pytest.mark.parametrize("pitch", [16, 24])
def test_exponents_that_lie_like_words_are_read_in_place(dtype: torch.dtype, pitch: int) -> None:
    codes = torch.zeros(M, pitch, dtype=torch.uint8)[:, :16].view(dtype)
    words = check_scale(read_tensor(codes, "sa"), M, K, PACKED)
    assert (words.shape, words.strides, words.dtype) == ((M, 4), (pitch // 4, 1), "ue8m0x4")
    assert words.address == codes.data_ptr()


def test_one_row_of_exponents_may_have_any_pitch() -> None:
    codes = exponents(1).as_strided((1, 16), (3, 1))
    assert check_scale(read_tensor(codes, "sa"), 1, K, PACKED).shape == (1, 4)


@pytest.mark.parametrize(
    ("codes", "k"),
    [
        (exponents(blocks=15), 480),
        (torch.zeros(M, 18, dtype=torch.uint8)[:, :16], K),
        (torch.zeros(16, M, dtype=torch.uint8).T, K),
        (torch.zeros(M, 32, dtype=torch.uint8)[:, ::2], K),
    ],
    ids=["15 blocks", "rows 18 bytes apart", "along rows", "every second"],
)
def test_other_exponents_are_refused(codes: torch.Tensor, k: int) -> None:
    with pytest.raises(ArgumentError, match="do not lie like words") as caught:
        check_scale(read_tensor(codes, "sb"), M, k, PACKED)
    assert caught.value.where == "sb"
    assert str(tuple(codes.stride())) in str(caught.value.got)
    assert caught.value.fix == "pass gemmgen.pack_exponents(sb)"


@pytest.mark.parametrize(
    ("scale", "rule", "says", "fix"),
    [
        (torch.ones(M, 16), PACKED, "packed UE8M0", "gemmgen.pack_scales"),
        (torch.ones(M, 16), PACKED, "packed UE8M0", "requantize=True lets it lose precision"),
        (torch.ones(M, 16), PACKED, "packed UE8M0", 'block=(1, 32), scale_format="ue8m0"'),
        (packed_words(), ScaleRule((1, 128)), "wrong element type", "scale format ue8m0"),
        (exponents(), ScaleRule((1, 32)), "wrong element type", "scale format ue8m0"),
        (torch.ones(M, 4).bfloat16(), ScaleRule((1, 128)), "wrong element type", "pass sa.float()"),
        (packed_words()[:, :3], PACKED, "wrong shape", 'block=(1, 32), scale_format="ue8m0"'),
        (packed_words().T, PACKED, "wrong shape", "pass sa.T"),
        (exponents(blocks=12), PACKED, "wrong shape", 'block=(1, 32), scale_format="ue8m0"'),
        (torch.ones(M, 3), ScaleRule((1, 128)), "wrong shape", "gemmgen.quantize(x, block=(1, 128))"),
    ],
)
def test_refusals(scale: torch.Tensor, rule: ScaleRule, says: str, fix: str) -> None:
    with pytest.raises(ArgumentError, match=says) as caught:
        check_scale(read_tensor(scale, "sa"), M, K, rule)
    assert caught.value.where == "sa"
    assert caught.value.got
    assert caught.value.need
    assert fix in str(caught.value.fix)


def test_the_need_says_what_is_counted() -> None:
    with pytest.raises(ArgumentError) as caught:
        check_scale(read_tensor(packed_words()[:, :3], "sa"), M, K, PACKED)
    need = "(6, 4): one packed UE8M0 exponent per 1 × 32 block of 6 × 512 elements, four to a word, any strides"
    assert caught.value.need == need


SIGNATURE = GemmSignature("e4m3", PACKED, "e4m3", PACKED, "bf16")


def call(**changes: Any) -> dict[str, Any]:
    fp8 = torch.float8_e4m3fn
    return {
        "a": torch.zeros(M, K, dtype=fp8), "sa": packed_words(), "b": torch.zeros(N, K, dtype=fp8),
        "sb": packed_words(N), "out": torch.zeros(M, N, dtype=torch.bfloat16), **changes,
    }  # fmt: skip


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "_torch_device", lambda tensor: 0)


def test_a_known_layout_reads_exponents_at_their_own_address(on_gpu: None) -> None:
    checker = ArgumentChecker(SIGNATURE)
    for codes in (exponents(), exponents()):
        given = checker.check(call(sa=codes)).operands["sa"]
        assert given == ("sa", codes.data_ptr(), (M, 4), (4, 1), "ue8m0x4", 0, True)
    assert checker.check(call()).operands["sa"].dtype == "i32"


def test_exponents_must_be_aligned_like_words(on_gpu: None) -> None:
    shifted = torch.zeros(M * 16 + 2, dtype=torch.uint8)[2:].view(M, 16)
    checker = ArgumentChecker(SIGNATURE)
    checker.check(call(sa=exponents()))
    with pytest.raises(ArgumentError, match="4-byte aligned") as caught:
        checker.check(call(sa=shifted))
    assert caught.value.where == "sa"
    assert caught.value.fix == "pass sa.clone()"


def test_missing_packed_scales_are_described(on_gpu: None) -> None:
    with pytest.raises(ArgumentError, match="takes scales here") as caught:
        ArgumentChecker(SIGNATURE).check(call(sb=None))
    assert caught.value.need == "one packed UE8M0 exponent per 1 × 32 block"


def test_the_signature_follows_the_spec() -> None:
    values = load_spec("fp8_gemm_nt").to_dict()
    values["operands"]["a"]["scale"] = {"block": [1, 32], "format": "ue8m0"}
    values["operands"]["b"]["scale"] = {"block": [1, 128], "format": "ue8m0"}
    values["accumulate"] = {"dtype": "f32"}
    spec = load_spec(values)
    assert spec.accumulate.promote_every is None
    assert GemmSignature.of(spec).scales == {"sa": PACKED, "sb": ScaleRule((1, 128), "ue8m0")}


ROWS, BLOCKS, WHOLE = ScaleRule((1, 128)), ScaleRule((128, 128)), ScaleRule((1, "K"))
BULK, LANES = torch.zeros(4, 8).T[:M], torch.zeros(M, 4)


@pytest.mark.parametrize(
    ("rules", "scales", "way"),
    [
        ((ROWS, BLOCKS), (BULK, LANES), "bulk"),
        ((ROWS, BLOCKS), (LANES, BULK), "lanes"),
        ((ROWS, ROWS), (BULK, BULK), "bulk"),
        ((ROWS, ROWS), (BULK, LANES), "lanes"),
        ((ROWS, ROWS), (LANES, BULK), "lanes"),
        ((PACKED, PACKED), (BULK.int(), BULK.int().T.contiguous().T), "lanes"),
        ((PACKED, PACKED), (torch.zeros(4, 8).int().T[:M], torch.zeros(4, 12).int().T[:9]), "bulk"),
        ((WHOLE, WHOLE), (LANES[:, :1], LANES[:, :1]), "bulk"),
        ((None, None), (None, None), "bulk"),
        ((ROWS, BLOCKS), (torch.zeros(1, 1), LANES), "bulk"),
        ((ROWS, BLOCKS), (torch.zeros(M, 1), LANES), "bulk"),
        ((ROWS, BLOCKS), (torch.zeros(1, 4), LANES), "lanes"),
        ((ROWS, BLOCKS), (torch.zeros(4, 6).T, LANES), "lanes"),
        ((ROWS, BLOCKS), (torch.zeros(4, 12)[:, 1:9].T, LANES), "lanes"),
        ((ROWS, BLOCKS), (torch.zeros(1).expand(M, 4), LANES), "lanes"),
    ],
)
def test_the_copy_engine_must_be_able_to_load_all(rules: Any, scales: Any, way: str) -> None:
    arguments = {
        name: read_tensor(scale, name) for name, scale in zip(("sa", "sb"), scales, strict=True) if scale is not None
    }
    assert scale_copy_of(dict(zip(("sa", "sb"), rules, strict=True)), arguments) == way


@pytest.mark.parametrize("layout", ["mn", "k"])
def test_what_quantize_makes_reaches_the_kernel_as_its_layout_says(layout: str) -> None:
    q = quantize(np.ones((M, K), np.float32), (1, 32), scale_format="ue8m0", scale_major=layout)
    scale = check_scale(read_numpy(q.scale, "sa"), M, K, PACKED)
    assert scale_copy_of({"sa": PACKED}, {"sa": scale}) == {"mn": "bulk", "k": "lanes"}[layout]


def test_the_emulator_maps_words_column_by_column() -> None:
    words = pack_exponents(np.zeros((M, 16), np.uint8))
    param = TensorMapParam("tma_sa", "sa", "ue8m0x4", (128, 1), "none", transposed=True)
    mapped = _Binder({"sa": words}, (M, N, K), ("d",)).value(param)
    assert (mapped.dims, mapped.strides, mapped.box) == ((M, 4), (32,), (128, 1))
    assert len(mapped.encode(0x1000, "tma_sa")) == 128
