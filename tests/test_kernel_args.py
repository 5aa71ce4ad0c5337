"""Rejected calls: each names the argument, what was given, what is needed, and a fix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from gemmgen.errors import ArgumentError
from gemmgen.kernel_args import ArgumentChecker, GemmSignature, overlaps
from gemmgen.runtime import tensors
from gemmgen.runtime.tensors import TensorArg
from gemmgen.scale_args import ScaleRule

FP8 = torch.float8_e4m3fn
SIGNATURE = GemmSignature("e4m3", ScaleRule((1, 128)), "e4m3", ScaleRule((128, 128)), "bf16")
M, N, K = 6, 208, 272


@pytest.fixture(autouse=True)
def everything_is_on_gpu_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "_torch_device", lambda tensor: getattr(tensor, "fake_device", 0))


def operands(m: int = M, n: int = N, k: int = K) -> dict[str, Any]:
    groups = -(-k // 128)
    return {
        "a": torch.zeros(m, k, dtype=FP8),
        "sa": torch.ones(m, groups),
        "b": torch.zeros(n, k, dtype=FP8),
        "sb": torch.ones(-(-n // 128), groups),
        "out": torch.zeros(m, n, dtype=torch.bfloat16),
    }


def on_device(tensor: torch.Tensor, device: int) -> torch.Tensor:
    tensor.fake_device = device  # type: ignore[attr-defined]
    return tensor


def unaligned(rows: int, cols: int, dtype: torch.dtype, skipped: int) -> torch.Tensor:
    """A matrix whose first element is ``skipped`` elements past an aligned address."""
    return torch.zeros(rows * 512 + 64, dtype=dtype)[skipped : skipped + rows * 512].view(rows, 512)[:, :cols]


BAD_CALLS: list[tuple[str, Callable[[dict[str, Any]], dict[str, Any]], str, str]] = [
    ("a is a list", lambda x: {"a": [[1.0]]}, "a", "no tensor"),
    ("a is None", lambda x: {"a": None}, "a", "no tensor"),
    ("sa is left out", lambda x: {"sa": None}, "sa", "takes scales here"),
    ("sb is left out", lambda x: {"sb": None}, "sb", "takes scales here"),
    ("a on the CPU", lambda x: {"a": on_device(x["a"], -1)}, "a", "not on a GPU"),
    ("sb on the CPU", lambda x: {"sb": on_device(x["sb"], -1)}, "sb", "not on a GPU"),
    ("numpy b", lambda x: {"b": np.zeros((N, K), np.uint8)}, "b", "not on a GPU"),
    ("b on another GPU", lambda x: {"b": on_device(x["b"], 1)}, "b", "different GPUs"),
    ("out on another GPU", lambda x: {"out": on_device(x["out"], 1)}, "out", "different GPUs"),
    ("a with 3 dimensions", lambda x: {"a": x["a"][None]}, "a", "is a matrix"),
    ("sa with 1 dimension", lambda x: {"sa": x["sa"][:, 0]}, "sa", "is a matrix"),
    ("a in bf16", lambda x: {"a": torch.zeros(M, K, dtype=torch.bfloat16)}, "a", "wrong element type"),
    ("b in e5m2", lambda x: {"b": torch.zeros(N, K, dtype=torch.float8_e5m2)}, "b", "wrong element type"),
    ("a in uint8", lambda x: {"a": x["a"].view(torch.uint8)}, "a", "wrong element type"),
    ("out in f32", lambda x: {"out": torch.zeros(M, N)}, "out", "wrong element type"),
    ("sa in bf16", lambda x: {"sa": x["sa"].bfloat16()}, "sa", "wrong element type"),
    ("K differs", lambda x: {"b": torch.zeros(N, K + 16, dtype=FP8)}, "b", "disagree about K"),
    ("b transposed", lambda x: {"b": torch.zeros(K, 512, dtype=FP8)}, "b", "disagree about K"),
    ("out too short", lambda x: {"out": torch.zeros(M - 1, N, dtype=torch.bfloat16)}, "out", "wrong shape"),
    ("out transposed", lambda x: {"out": torch.zeros(N, M, dtype=torch.bfloat16)}, "out", "wrong shape"),
    ("sa transposed", lambda x: {"sa": torch.ones(3, M)}, "sa", "wrong shape"),
    ("sa of the wrong block", lambda x: {"sa": torch.ones(1, 3)}, "sa", "wrong shape"),
    ("sb without the tail", lambda x: {"sb": torch.ones(1, 3)}, "sb", "wrong shape"),
    ("a column-major", lambda x: {"a": torch.zeros(K, M, dtype=FP8).T}, "a", "adjacent"),
    ("b with stride 2", lambda x: {"b": torch.zeros(N, 2 * K, dtype=FP8)[:, ::2]}, "b", "adjacent"),
    ("a with 8-byte pitch", lambda x: {"a": torch.zeros(M, K + 8, dtype=FP8)[:, :K]}, "a", "16 bytes apart"),
    ("out with odd pitch", lambda x: {"out": torch.zeros(M, N + 4, dtype=x["out"].dtype)[:, :N]}, "out", "apart"),
    ("a expanded", lambda x: {"a": torch.zeros(1, K, dtype=FP8).expand(M, K)}, "a", "overlap or lie too far"),
    ("a 8 bytes off", lambda x: {"a": unaligned(M, K, FP8, 8)}, "a", "16-byte aligned"),
    ("b 1 byte off", lambda x: {"b": unaligned(N, K, FP8, 1)}, "b", "16-byte aligned"),
    ("out 2 bytes off", lambda x: {"out": unaligned(M, N, torch.bfloat16, 1)}, "out", "16-byte aligned"),
    ("out is a", lambda x: {"out": x["a"].view(-1).view(torch.bfloat16)[: 6 * 136].view(6, 136)}, "out", "shape"),
]


@pytest.mark.parametrize(("change", "where", "says"), [case[1:] for case in BAD_CALLS], ids=[c[0] for c in BAD_CALLS])
def test_bad_calls_are_named(change: Callable[[dict[str, Any]], dict[str, Any]], where: str, says: str) -> None:
    good = operands()
    with pytest.raises(ArgumentError, match=says) as caught:
        ArgumentChecker(SIGNATURE).check({**good, **change(good)})
    error = caught.value
    assert error.where == where
    assert error.got
    assert error.need
    assert error.fix
    assert "torch.Size" not in str(error)


def test_overlapping_output_is_refused() -> None:
    buffer = torch.zeros(1 << 20, dtype=torch.uint8)
    call = operands()
    call["out"] = buffer[: M * N * 2].view(torch.bfloat16).view(M, N)
    for name, tensor in (("a", call["a"]), ("sb", call["sb"])):
        raw = buffer[M * N * 2 - 16 :][: tensor.numel() * tensor.element_size()]
        with pytest.raises(ArgumentError, match=f"shares memory with {name}") as caught:
            ArgumentChecker(SIGNATURE).check({**call, name: raw.view(tensor.dtype).view(tensor.shape)})
        assert caught.value.where == "out"


def test_side_by_side_matrices_do_not_overlap() -> None:
    def matrix(address: int, cols: int, pitch: int = 64) -> TensorArg:
        return TensorArg("x", address, (8, cols), (pitch, 1), "u8", 0)

    assert not overlaps(matrix(0, 32), matrix(32, 32))
    assert not overlaps(matrix(32, 32), matrix(64, 32))
    assert overlaps(matrix(0, 33), matrix(32, 32))
    assert overlaps(matrix(0, 32), matrix(48, 32))
    assert overlaps(matrix(0, 32), matrix(32, 16, pitch=32))
    assert not overlaps(matrix(0, 64), matrix(512, 64))
    assert not overlaps(matrix(0, 0), matrix(0, 64))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: {},
        lambda x: {"a": torch.zeros(M, 512, dtype=FP8)[:, :K]},
        lambda x: {"out": torch.zeros(M, N + 8, dtype=torch.bfloat16)[:, :N]},
        lambda x: {"sa": torch.ones(3, 8).T[:M], "sb": torch.ones(3, 2).T},
        lambda x: {"sa": torch.ones(1, 1).expand(M, 3)},
        lambda x: {"sb": torch.ones(5, 7)[1:3, 2:5]},
    ],
)
def test_padded_and_transposed_operands_are_accepted(change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    call = operands()
    call |= change(call)
    problem = ArgumentChecker(SIGNATURE).check(call)
    assert (problem.m, problem.n, problem.k, problem.device) == (M, N, K, 0)
    assert problem.operands["d"].strides == call["out"].stride()
    assert problem.operands["sa"].address == call["sa"].data_ptr()


@pytest.mark.parametrize("sizes", [(0, N, K), (M, 0, K), (M, N, 0), (0, 0, 0), (1, 8, 16), (1, 1, 1)])
def test_empty_and_tiny_problems(sizes: tuple[int, int, int]) -> None:
    m, n, k = sizes
    problem = ArgumentChecker(SIGNATURE).check(operands(m, n, k))
    assert (problem.m, problem.n, problem.k) == sizes
    assert problem.is_empty == (m == 0 or n == 0)


def test_one_row_may_have_any_pitch() -> None:
    call = operands(1)
    call["a"] = torch.zeros(1, K, dtype=FP8).as_strided((1, K), (3, 1))
    assert ArgumentChecker(SIGNATURE).check(call).m == 1


@pytest.mark.parametrize(("changes", "dim"), [({"n": 216}, "N"), ({"k": 256}, "K"), ({"m": 7}, "M")])
def test_dimensions_that_the_kernel_fixes(changes: dict[str, int], dim: str) -> None:
    signature = GemmSignature("e4m3", ScaleRule((1, 128)), "e4m3", ScaleRule((128, 128)), "bf16", m=M, n=N, k=K)
    ArgumentChecker(signature).check(operands())
    with pytest.raises(ArgumentError, match=f"another {dim}"):
        ArgumentChecker(signature).check(operands(**changes))


def test_unscaled_operands_and_whole_row_scales() -> None:
    unscaled = ArgumentChecker(GemmSignature("bf16", None, "bf16", None, "bf16"))
    call = {"a": torch.zeros(M, K).bfloat16(), "b": torch.zeros(N, K).bfloat16(), "out": operands()["out"]}
    assert unscaled.check({**call, "sa": None, "sb": None}).k == K
    with pytest.raises(ArgumentError, match="takes no scales"):
        unscaled.check({**call, "sa": torch.ones(M, 3)})
    whole = ArgumentChecker(GemmSignature("e4m3", ScaleRule(("M", "K")), "e4m3", ScaleRule((1, "K")), "bf16"))
    assert whole.check({**operands(), "sa": torch.ones(1, 1), "sb": torch.ones(N, 1)}).n == N


def test_a_known_layout_is_still_checked_for_alignment() -> None:
    checker = ArgumentChecker(SIGNATURE)
    strided = unaligned(M, K, FP8, 16)
    checker.check({**operands(), "a": strided})
    with pytest.raises(ArgumentError, match="16-byte aligned"):
        checker.check({**operands(), "a": unaligned(M, K, FP8, 17)})
