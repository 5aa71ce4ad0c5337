"""The package's public face."""

from __future__ import annotations

from pathlib import Path

import pytest
from runtime_fakes import SPEC_VALUES, FakeCuda, fake_cuda, small_spec  # noqa: F401

import gemmgen
import gemmgen.quantization
from gemmgen import api
from gemmgen.errors import ArgumentError, SpecError, TargetError
from gemmgen.runtime import driver


@pytest.mark.parametrize("name", gemmgen.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert callable(getattr(gemmgen, name))
    assert name in dir(gemmgen)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'gemm'"):
        _ = gemmgen.gemm  # type: ignore[attr-defined]


def test_compile_takes_values_files_and_specs(tmp_path: Path) -> None:
    path = tmp_path / "gemm.yaml"
    path.write_text("gemmgen: 1\n" + small_spec().canonical().split("\n", 1)[1])
    for source in (SPEC_VALUES, path, str(path), small_spec()):
        kernel = gemmgen.compile(source, "sm_90a", N=256, K=512, strict=True)
        assert (kernel.target, kernel.strict) == ("sm_90a", True)
        assert dict(kernel.spec.problem.dims) == {"M": "dynamic", "N": 256, "K": 512}


def test_compile_refuses_what_cannot_be_built() -> None:
    with pytest.raises(TargetError, match="not supported yet"):
        gemmgen.compile({**SPEC_VALUES, "schedule": {"scheduler": "split_k"}, "targets": ["sm_100a"]}, "sm_100a")
    with pytest.raises(TargetError, match="unknown target"):
        gemmgen.compile(SPEC_VALUES, "sm_90b")
    with pytest.raises(SpecError):
        gemmgen.compile(SPEC_VALUES, "sm_90a", Q=3)


def test_supports_answers_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise AssertionError("supports() must not touch a GPU")

    monkeypatch.setattr(driver, "cuda", refuse)
    assert gemmgen.supports(SPEC_VALUES, "sm_90a") == (True, "")
    several = {**SPEC_VALUES, "targets": ["sm_90a", "sm_100a"]}
    assert gemmgen.supports(several, "sm_100a") == (True, "")
    able, reason = gemmgen.supports({**several, "schedule": {"scheduler": "split_k"}}, "sm_100a")
    assert not able
    assert "sm_100a" in reason


def test_the_default_target_is_this_machines(cuda: FakeCuda) -> None:
    spec = gemmgen.load_spec({**SPEC_VALUES, "targets": ["sm_100a", "sm_90a"]})
    assert api.default_target(spec) == "sm_90a"
    cuda.capability = (10, 0)
    driver.device_properties.cache_clear()
    assert api.default_target(spec) == "sm_100a"
    cuda.devices = 0
    assert api.default_target(spec) == "sm_100a"


def test_errors_are_values_too() -> None:
    with pytest.raises(gemmgen.GemmgenError) as caught:
        gemmgen.quantize([1.0])
    assert isinstance(caught.value, ArgumentError)
    assert caught.value.as_dict()["where"] == "x"
