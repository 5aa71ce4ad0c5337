"""Files of tuned schedules: they read back as written, and whatever is wrong with one is refused in full."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tuning_fakes import TARGET, details

import gemmgen
from gemmgen.errors import TuningError
from gemmgen.runtime.cache import digest
from gemmgen.schedule import Schedule
from gemmgen.spec import load_spec
from gemmgen.tuning.file import Timed, TunedEntry, TunedFile, load_tuned, spec_identity

SPEC = load_spec("fp8_gemm_nt")
FAST, PLAIN = Schedule((32, 64, 128), 9, split_k=2, swap_ab=True, math_warpgroups=1), Schedule((128, 128, 128), 5)


def entry(m: int, us: float = 8.0, schedule: Schedule = FAST, n: int = 576, k: int = 7168) -> TunedEntry:
    return TunedEntry(m, n, k, Timed(schedule, us, 8.5), Timed(PLAIN, 10.0, 9.0), 20)


def tuned_file(*entries: TunedEntry, **changes: Any) -> TunedFile:
    values: dict[str, Any] = {"identity": spec_identity(SPEC), "target": TARGET, "device": "Fake H200", **changes}
    return TunedFile("fp8_gemm_nt", entries=entries, **values)


def written(path: Path, **changes: Any) -> Path:
    """A file with some keys changed and a checksum that fits."""
    content = {**tuned_file(entry(64)).to_dict(), **changes}
    del content["checksum"]
    path.write_text(json.dumps({**content, "checksum": digest(json.dumps(content, sort_keys=True))}))
    return path


def test_a_file_reads_back_as_it_was_written(tmp_path: Path) -> None:
    file = tuned_file(entry(1), entry(64, n=2112))
    path = tmp_path / "folder" / "tuned.json"
    file.save(path)
    found = load_tuned(path)
    assert (found.entries, found.source) == (file.entries, str(path))
    assert (found.spec, found.identity, found.target, found.device) == (
        "fp8_gemm_nt",
        spec_identity(SPEC),
        TARGET,
        "Fake H200",
    )
    content = json.loads(path.read_text())
    assert (content["format"], content["version"], content["gemmgen"]) == ("gemmgen-tuned", 1, gemmgen.__version__)
    first = content["entries"][0]
    assert (first["m"], first["n"], first["k"], first["us"], first["predicted_us"]) == (1, 576, 7168, 8.0, 8.5)
    assert first["schedule"] == FAST.to_dict()
    assert first["heuristic"] == {"schedule": PLAIN.to_dict(), "us": 10.0, "predicted_us": 9.0}
    assert first["faster_by"] == pytest.approx(0.2)


def test_an_entry_takes_the_place_of_the_one_for_its_problem() -> None:
    lanes = entry(64, schedule=FAST.replace(scale_copy="lanes"))
    file = tuned_file().with_entry(entry(64)).with_entry(entry(1)).with_entry(lanes).with_entry(entry(64, us=7.0))
    assert [(e.m, e.best.us) for e in file.for_plan(576, 7168, "bulk").entries] == [(1, 8.0), (64, 7.0)]
    assert file.for_plan(576, 7168, "lanes").entries == (lanes,)
    assert file.for_plan(576, 512, "bulk").entries == ()
    assert file.entry_for(64, 576, 7168) == entry(64, us=7.0)
    assert file.entry_for(65, 576, 7168) is None


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tuned.json"
    tuned_file(entry(1)).save(path)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tuned_file(entry(64)).save(path)
    assert [e.m for e in load_tuned(path).entries] == [1]
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(TuningError, match="cannot be written") as caught:
        tuned_file().save(tmp_path / "taken" / "tuned.json")
    assert None not in details(caught.value)


def test_identity_is_what_is_computed_and_how(tmp_path: Path) -> None:
    same = [SPEC.bind(N=576, K=7168), SPEC.bind(M=3)]
    assert {spec_identity(spec) for spec in same} == {spec_identity(SPEC)}
    renamed = load_spec({**SPEC.to_dict(), "name": "other", "targets": ["sm_90a"]})
    assert spec_identity(renamed) == spec_identity(SPEC)
    hinted = load_spec({**SPEC.to_dict(), "schedule": {"stages": 3}})
    others = [
        hinted,
        load_spec("fp8_gemm_nt_rowwise"),
        load_spec("fp8_gemm_nt_no_promotion"),
        load_spec("bf16_gemm_nt"),
    ]
    assert len({spec_identity(spec) for spec in [SPEC, *others]}) == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ("\N{NO-BREAK SPACE}", "is damaged"),
        ("[]", "no file of tuned schedules"),
        ("{}", "no file of tuned schedules"),
        ('{"format": "gemmgen-manifest"}', "no file of tuned schedules"),
        ('{"format": "gemmgen-tuned"}', "another version"),
        ('{"format": "gemmgen-tuned", "version": 1}', "is damaged, or was edited"),
    ],
)
def test_what_is_no_such_file_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    path.write_text(content)
    with pytest.raises(TuningError, match=message) as caught:
        load_tuned(path)
    assert None not in details(caught.value)
    assert caught.value.where == str(path)


def test_a_missing_file_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(TuningError, match="cannot be read"):
        load_tuned(tmp_path / "nowhere.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TuningError, match="is damaged"):
        load_tuned(tmp_path / "binary")


def test_every_edit_and_every_cut_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    tuned_file(entry(64)).save(path)
    text = path.read_text()
    for edited in (text.replace('"us": 8.0', '"us": 7.0'), text.replace("64", "65", 1), text[: len(text) // 2]):
        assert edited != text
        path.write_text(edited)
        with pytest.raises(TuningError, match="damaged"):
            load_tuned(path)


def test_another_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TuningError, match="another version") as caught:
        load_tuned(written(tmp_path / "tuned.json", version=2))
    assert (caught.value.got, caught.value.need) == ("2", "version 1")


def test_a_schedule_with_fields_that_this_version_lacks_is_refused(tmp_path: Path) -> None:
    newer = entry(64).to_dict()
    newer["schedule"]["stream_k"] = 3
    with pytest.raises(TuningError, match="cannot read the tuned schedules") as caught:
        load_tuned(written(tmp_path / "tuned.json", entries=[newer]))
    assert "stream_k" in (caught.value.got or "")
    for changes in ({"entries": [{"m": 3}]}, {"entries": 3}, {"spec": "x"}):
        with pytest.raises(TuningError, match="cannot read the tuned schedules"):
            load_tuned(written(tmp_path / "tuned.json", **changes))


def test_another_spec_or_target_is_refused() -> None:
    file = tuned_file(entry(64))
    file.check_fits(SPEC.bind(N=576, K=7168), TARGET)
    with pytest.raises(TuningError, match="for another target") as target:
        file.check_fits(SPEC, "sm_100a")
    with pytest.raises(TuningError, match="for another spec") as spec:
        file.check_fits(load_spec("bf16_gemm_nt"), TARGET)
    for caught in (target, spec):
        assert None not in details(caught.value)


def test_tuning_into_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    from tuning_fakes import FakeDevice

    path = tmp_path / "tuned.json"
    tuned_file(entry(64), device="another GPU").save(path)
    before = path.read_bytes()
    device = FakeDevice()
    with pytest.raises(TuningError, match="another GPU's"):
        gemmgen.tune("fp8_gemm_nt", TARGET, M=64, N=576, K=7168, out=path, measurer=device)
    with pytest.raises(TuningError, match="another spec"):
        gemmgen.tune("bf16_gemm_nt", TARGET, M=64, N=576, K=7168, out=path, measurer=device)
    assert (path.read_bytes(), device.prepared) == (before, [])
