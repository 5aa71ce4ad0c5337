"""Reading tensors of every origin."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from runtime_fakes import BF16, E4M3, DeviceArray, FakeCuda, fake_cuda  # noqa: F401

from gemmgen.errors import ArgumentError
from gemmgen.runtime.tensors import CPU, TensorArg, is_torch_tensor, read_tensor, stream_handle


class DlpackOnGpu:
    """Forwards a CPU tensor's capsule and claims that it lies on GPU 1."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.streams: list[Any] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 1

    def __dlpack__(self, stream: Any = None) -> Any:
        self.streams.append(stream)
        return self.tensor.__dlpack__()


def test_torch_tensors() -> None:
    x = torch.zeros(6, 8, dtype=torch.float8_e4m3fn)[1:5, :4]
    tensor = read_tensor(x, "a")
    assert tensor == TensorArg("a", x.data_ptr(), (4, 4), (8, 1), "e4m3", CPU, True)
    assert tensor.holds("e4m3")
    assert tensor.span_bytes() == (x.data_ptr(), x.data_ptr() + 3 * 8 + 4)
    assert read_tensor(torch.nn.Parameter(torch.zeros(2, 2)), "a").dtype == "f32"
    assert not read_tensor(torch.zeros(2, 2, dtype=torch.uint8), "a").holds("e4m3")
    assert read_tensor(torch.zeros(2, 2, dtype=torch.complex64), "a").dtype == "torch.complex64"


@pytest.mark.filterwarnings("ignore:Sparse")
def test_sparse_tensors_are_refused() -> None:
    with pytest.raises(ArgumentError, match="not dense") as caught:
        read_tensor(torch.zeros(2, 2).to_sparse(), "a")
    assert caught.value.fix == "call .to_dense()"


def test_dlpack_objects_are_read_without_being_consumed() -> None:
    source = torch.arange(24, dtype=torch.bfloat16).reshape(4, 6)[:, 2:]
    exporter = DlpackOnGpu(source)
    for stream, expected in ((0, 1), (7, 7)):
        tensor = read_tensor(exporter, "a", stream)
        assert tensor == TensorArg("a", source.data_ptr(), (4, 4), (6, 1), "bf16", 1, False)
        assert exporter.streams[-1] == expected
    assert source[3, 3].item() == 23


def test_numpy_arrays_are_on_the_cpu() -> None:
    x = np.zeros((3, 4), np.float32)
    tensor = read_tensor(x, "sa")
    assert (tensor.shape, tensor.strides, tensor.dtype, tensor.device) == ((3, 4), (4, 1), "f32", CPU)
    assert tensor.address == x.__array_interface__["data"][0]


def test_objects_that_refuse_to_export_are_named() -> None:
    with pytest.raises(ArgumentError, match="does not export") as caught:
        read_tensor(np.zeros((2, 2), E4M3), "a")
    assert caught.value.where == "a"


def test_cuda_array_interface(cuda: FakeCuda) -> None:
    x = np.zeros((4, 8), BF16)[:, 2:]
    tensor = read_tensor(DeviceArray(x, cuda, device=1), "d")
    assert (tensor.shape, tensor.strides, tensor.dtype, tensor.device) == ((4, 6), (8, 1), "u16", 1)
    assert tensor.holds("bf16")
    assert not tensor.holds("f32")
    array = DeviceArray(np.zeros((4, 8), np.float32), cuda)
    array.__cuda_array_interface__["strides"] = None
    assert read_tensor(array, "d").strides == (8, 1)
    array.__cuda_array_interface__["strides"] = (33, 4)
    with pytest.raises(ArgumentError, match="whole elements"):
        read_tensor(array, "d")


def test_a_producers_stream_is_waited_for(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[int] = []
    monkeypatch.setattr(cuda, "cuStreamSynchronize", lambda stream: waited.append(int(stream)) or (0,))
    array = DeviceArray(np.zeros((4, 8), np.float32), cuda)
    for producer in (None, 1, 5, 9):
        array.__cuda_array_interface__["stream"] = producer
        read_tensor(array, "d", 9 if producer == 9 else 0)
    assert waited == [5]


def test_other_objects_are_named() -> None:
    with pytest.raises(ArgumentError) as caught:
        read_tensor([[1.0]], "b")
    assert (caught.value.where, caught.value.got) == ("b", "list")


def test_torch_is_never_imported_to_look_at_an_argument() -> None:
    script = """
import sys
from gemmgen.runtime.tensors import is_torch_tensor
assert not is_torch_tensor(1)
import gemmgen.kernel, gemmgen.api
assert "torch" not in sys.modules and "sympy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert is_torch_tensor(torch.zeros(1))


def test_stream_handles() -> None:
    class Torch:
        cuda_stream = 5

    class Cupy:
        ptr = 6

    class Protocol:
        def __cuda_stream__(self) -> tuple[int, int]:
            return 0, 7

    assert [stream_handle(stream) for stream in (4, Torch(), Cupy(), Protocol())] == [4, 5, 6, 7]
    with pytest.raises(ArgumentError) as caught:
        stream_handle("main")
    assert caught.value.where == "stream"


def test_the_dlpack_structure_has_the_headers_size() -> None:
    from gemmgen.runtime.tensors import _DLTensor

    assert ctypes.sizeof(_DLTensor) == 48
    assert _DLTensor.byte_offset.offset == 40
