"""Reading specs: positions, strictness, composition. Every bad input is answered with where, got, need and fix."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemmgen.errors import SpecError
from gemmgen.spec import GemmSpec, load_spec, shipped_specs, yaml_reader

BASE = """\
gemmgen: 1
name: test_gemm
problem:
  kind: dense
  layout: NT
  dims: {M: dynamic, N: 4096, K: 7168}
operands:
  a: {dtype: e4m3, scale: {block: [1, 128], format: f32}}
  b: {dtype: e4m3, scale: {block: [128, 128], format: f32}}
  d: {dtype: bf16}
accumulate: {dtype: f32, promote_every: 128}
epilogue: "acc"
schedule:
  tile: [128, 128, 128]
targets: [sm_90a]
"""


def edited(old: str, new: str) -> str:
    """The base spec with one piece of text replaced."""
    assert BASE.count(old) == 1, old
    return BASE.replace(old, new)


BAD: dict[str, tuple[str, str, str]] = {
    # id: (text, line:column, part of the message)
    "empty": ("", "1:1", "empty"),
    "only_comment": ("# nothing\n", "2:1", "empty"),
    "not_a_mapping": ("- gemmgen\n", "1:1", "a spec is a mapping"),
    "scalar_document": ("gemmgen\n", "1:1", "a spec is a mapping"),
    "two_documents": (BASE + "---\na: 1\n", "16:1", "more than one YAML document"),
    "syntax": (edited("[128, 128, 128]", "[128, 128"), "15:8", "not valid YAML"),
    "tab_indent": (edited("  kind: dense", "\tkind: dense"), "4:1", "not valid YAML"),
    "control_character": (edited("test_gemm", "test\x07"), "2:11", "character that YAML does not allow"),
    "no_version": (edited("gemmgen: 1\n", ""), "1:1", "missing key gemmgen"),
    "wrong_version": (edited("gemmgen: 1", "gemmgen: 2"), "1:10", "unknown version"),
    "version_text": (edited("gemmgen: 1", "gemmgen: v1"), "1:10", "unknown version"),
    "version_flag": (edited("gemmgen: 1", "gemmgen: true"), "1:10", "unknown version"),
    "unknown_key": (edited("epilogue:", "epilog:"), "12:1", "did you mean epilogue?"),
    "unknown_nested_key": (edited("  tile:", "  tiles:"), "14:3", "did you mean tile?"),
    "unknown_key_in_flow": (edited("block: [1, 128]", "blocks: [1, 128]"), "8:28", "did you mean block?"),
    "unrelated_key": (BASE + "zzz: 1\n", "16:1", "remove zzz"),
    "key_is_number": (BASE + "12: 1\n", "16:1", "unknown key 12"),
    "key_is_list": (BASE + "[a, b]: 1\n", "16:1", "a key must be a word"),
    "duplicate_key": (BASE + "name: again\n", "16:1", "given twice"),
    "duplicate_nested": (edited("  layout: NT", "  kind: dense"), "5:3", "line 4"),
    "anchor": (edited("{dtype: bf16}", "&d {dtype: bf16}"), "10:6", "anchors"),
    "alias": (edited("{dtype: bf16}", "*d"), "10:6", "aliases"),
    "merge_key": (edited("  d: {dtype: bf16}", "  d: {<<: x, dtype: bf16}"), "10:7", "merge keys"),
    "tag": (edited("test_gemm", "!!python/object:os.system x"), "2:7", "tags"),
    "deep": (edited("bf16", "[" * 40 + "]" * 40), "10:24", "nested too deeply"),
    "missing_name": (edited("name: test_gemm\n", ""), "1:1", "missing key name"),
    "missing_nested": (edited("{dtype: bf16}", "{}"), "10:6", "missing key dtype"),
    "name_type": (edited("test_gemm", "[a]"), "2:7", "not a name"),
    "name_spelling": (edited("test_gemm", "Test-GEMM"), "2:7", "write test_gemm"),
    "problem_scalar": (edited("{M: dynamic, N: 4096, K: 7168}", "7"), "6:9", "not a mapping of dimensions"),
    "operand_scalar": (edited("{dtype: bf16}", "bf16"), "10:6", "not a mapping"),
    "kind": (edited("kind: dense", "kind: dens"), "4:9", "did you mean dense?"),
    "layout_case": (edited("layout: NT", "layout: nt"), "5:11", "did you mean NT?"),
    "dtype": (edited("bf16", "bfloat16"), "10:14", "did you mean bf16?"),
    "dtype_is_yaml_1_1_flag": (edited("bf16", "no"), "10:14", "not a legal word"),
    "block_unknown": (edited("[1, 128]", "[1, 100]"), "8:35", "not a scale block"),
    "block_word": (edited("[1, 128]", "fine"), "8:35", "not a list"),
    "missing_dim": (edited("M: dynamic, ", ""), "6:9", "dimension M is missing"),
    "dim_name": (edited("{M:", "{m:"), "6:10", "rename it to M"),
    "dim_negative": (edited("4096", "-1"), "6:25", "out of range"),
    "dim_huge": (edited("4096", "2147483648"), "6:25", "out of range"),
    "dim_float": (edited("4096", "40.5"), "6:25", "no legal size"),
    "dim_misspelt_dynamic": (edited("M: dynamic", "M: dynamc"), "6:13", "write dynamic"),
    "dim_unknown_name": (edited("4096", '"2 * I"'), "6:30", "unknown dimension I"),
    "dim_grammar": (edited("4096", '"2 * "'), "6:30", "not in the grammar"),
    "dim_function": (edited("4096", '"silu(K)"'), "6:26", "unknown dimension function"),
    "dim_cycle": (edited("N: 4096, K: 7168", "N: 2 * K, K: N // 2"), "6:25", "defined by each other"),
    "dim_itself": (edited("4096", "N + 1"), "6:25", "unknown dimension N"),
    "dim_null": (edited("4096", "null"), "6:25", "no legal size"),
    "promote_mixes_scales": (edited("promote_every: 128", "promote_every: 256"), "11:41", "a divisor of 128"),
    "promote_odd": (edited("promote_every: 128", "promote_every: 100"), "11:41", "write 96"),
    "epilogue_grammar": (edited('"acc"', '"acc +"'), "12:17", "not in the grammar"),
    "epilogue_function": (edited('"acc"', '"siluu(acc)"'), "12:12", "did you mean silu?"),
    "epilogue_name": (edited('"acc"', '"acc * bas[n]"'), "12:18", "unknown epilogue operand bas"),
    "epilogue_no_acc": (edited('"acc"', '"bias[n]"'), "12:12", "does not use the accumulator"),
    "epilogue_number": (edited('"acc"', "7"), "12:11", "not an expression"),
    "epilogue_c_undeclared": (edited('"acc"', '"acc + c"'), "12:11", "add c:"),
    "c_unread": (edited("  d:", "  c: {dtype: f32}\n  d:"), "10:6", "never read"),
    "quantize_other_dtype": (edited('"acc"', '"quantize(acc, 1x128, e4m3)"'), "10:14", "write e4m3"),
    "scale_on_bf16": (edited("{dtype: bf16}", "{dtype: bf16, scale: {block: [1, 128]}}"), "10:27", "only FP8"),
    "mixed_families": (
        edited("  d:", "  # a\n  d:").replace(
            "b: {dtype: e4m3, scale: {block: [128, 128], format: f32}}", "b: {dtype: bf16}"
        ),
        "9:14",
        "cannot multiply",
    ),
    "foreign_scale": (edited("[1, 128]", "[N, K]"), "8:35", "write [M, K]"),
    "d_tf32": (edited("bf16", "tf32"), "10:14", "cannot have this dtype"),
    "tile_length": (edited("[128, 128, 128]", "[128, 128]"), "14:9", "give 3 entries"),
    "tile_item": (edited("[128, 128, 128]", "[128, 130, 128]"), "14:15", "write 128"),
    "tile_text": (edited("[128, 128, 128]", "[128, big, 128]"), "14:15", "not an integer"),
    "cluster_product": (edited("  tile:", "  cluster: [8, 4]\n  tile:"), "14:12", "product"),
    "stages_zero": (edited("  tile:", "  stages: 0\n  tile:"), "14:11", "write 1"),
    "stages_flag": (edited("  tile:", "  stages: true\n  tile:"), "14:11", "not an integer"),
    "registers": (edited("  tile:", "  registers: {math: 230}\n  tile:"), "14:21", "write 232"),
    "swap_word": (edited("  tile:", "  swap_ab: yes\n  tile:"), "14:12", "write true"),
    "split_contradiction": (
        edited("  tile:", "  scheduler: persistent\n  split_k: 4\n  tile:"),
        "15:12",
        "contradicts",
    ),
    "targets_word": (edited("[sm_90a]", "sm_90a"), "15:10", "not a list"),
    "targets_empty": (edited("[sm_90a]", "[]"), "15:10", "empty list"),
    "targets_unknown": (edited("[sm_90a]", "[sm_90a, sm_90]"), "15:19", "did you mean sm_90a?"),
    "targets_twice": (edited("[sm_90a]", "[sm_90a, sm_90a]"), "15:19", "given twice"),
    "extends_list": (BASE + "extends: [a]\n", "16:10", "extends names a file"),
    "extends_missing": (BASE + "extends: nowhere.yaml\n", "16:10", "cannot be read"),
    "bomb": ("a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n", "1:4", "anchors"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("parser", ["libyaml", "python"])
def test_bad_spec(case: str, parser: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, place, message = BAD[case]
    if parser == "python":
        monkeypatch.setattr(yaml_reader, "_Parser", yaml.SafeLoader)
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    error = caught.value
    if not (
        parser == "python" and error.what == "not valid YAML"
    ):  # the two scanners report syntax errors at different places
        assert error.where == f"{path}:{place}"
    assert message in str(error)
    assert error.got
    assert error.need
    assert error.fix
    assert error.__suppress_context__ or error.__context__ is None


def test_expression_position_in_block_text() -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(edited('"acc"', ">\n  acc +\n  siluu(acc)"))
    assert caught.value.where == "<text>:12:11"


def test_expression_position_behind_other_characters() -> None:
    with pytest.raises(SpecError) as caught:
        load_spec("# Größe → 4096 😀\n" + edited('"acc"', "'acc + bis[n]'"))
    assert caught.value.where == "<text>:13:18"


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"gemmgen: 1\nname: caf\xe9\n")
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    assert caught.value.where == f"{path}:2:10"
    assert caught.value.got == "byte 0xe9"


def test_utf16(tmp_path: Path) -> None:
    path = tmp_path / "wide.yaml"
    path.write_bytes(BASE.encode("utf-16"))
    with pytest.raises(SpecError, match="UTF-8"):
        load_spec(path)


def test_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + BASE.encode())
    assert load_spec(path) == load_spec(BASE)


@pytest.mark.parametrize("size", [64 * 1024 + 1, 10**7])
def test_too_large(tmp_path: Path, size: int) -> None:
    path = tmp_path / "large.yaml"
    path.write_bytes(b"#" * size)
    with pytest.raises(SpecError, match="too large") as caught:
        load_spec(path)
    assert caught.value.where == f"{path}:1:1"


def test_endless_file() -> None:
    with pytest.raises(SpecError):
        load_spec("/dev/zero")


def test_missing_file_names_the_nearest_shipped_spec() -> None:
    with pytest.raises(SpecError) as caught:
        load_spec("fp8_gem_nt.yaml")
    assert caught.value.fix == "did you mean fp8_gemm_nt?"


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="directory"):
        load_spec(tmp_path)


@pytest.mark.parametrize("source", [None, 7, b"gemmgen: 1", ["a"]])
def test_other_types(source: object) -> None:
    with pytest.raises(SpecError, match="not a spec"):
        load_spec(source)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
def test_impossible_paths(name: str) -> None:
    with pytest.raises(SpecError, match="does not exist"):
        load_spec(name)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.text(max_size=200).map(lambda text: text + "\n"),
        st.tuples(
            st.integers(0, len(BASE)), st.integers(0, 12), st.text(alphabet="{}[]:,&*!#'\"|>%@-? \n\t0aK\\", max_size=8)
        ).map(lambda cut: BASE[: cut[0]] + cut[2] + BASE[cut[0] + cut[1] :]),
    )
)
def test_any_text_is_a_spec_or_a_spec_error(text: str) -> None:
    refused: SpecError | None = None
    try:
        assert isinstance(load_spec(text), GemmSpec)
    except SpecError as error:
        refused = error
    if refused is not None:
        assert refused.where
        assert refused.need
        assert refused.fix


def test_a_source_is_a_path_text_mapping_or_spec(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(BASE, encoding="utf-8")
    spec = load_spec(BASE)
    assert load_spec(str(path)) == spec
    assert load_spec(path) == spec
    assert load_spec(spec.to_dict()) == spec
    assert load_spec(spec) is spec


def test_shipped_specs_load_by_name() -> None:
    assert {"fp8_gemm_nt", "fp8_gemm_nt_split_k", "fp8_gemm_nt_no_promotion"} <= shipped_specs().keys()
    for name in shipped_specs():
        assert load_spec(name).name == name


def test_shipped_variants_differ_where_they_say() -> None:
    base, split, bare = (load_spec(f"fp8_gemm_nt{suffix}") for suffix in ("", "_split_k", "_no_promotion"))
    assert (split.schedule.swap_ab, split.schedule.scheduler) == (True, "split_k")
    assert split.operands == base.operands
    assert base.accumulate.promote_every == 128
    assert bare.accumulate.promote_every is None
    assert bare.accumulate.dtype == "f32"


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_extends_merges_and_keeps_positions(tmp_path: Path) -> None:
    write(tmp_path, base=BASE)
    write(
        tmp_path / "sub", child="gemmgen: 1\nextends: ../base.yaml\nproblem:\n  dims: {N: 576}\nschedule: {stages: 4}\n"
    )
    spec = load_spec(tmp_path / "sub/child.yaml")
    assert dict(spec.problem.dims) == {"M": "dynamic", "N": 576, "K": 7168}
    assert spec.schedule.tile == (128, 128, 128)
    assert spec.schedule.stages == 4
    assert spec.position("problem.dims.N") == f"{tmp_path}/sub/child.yaml:4:13"
    assert spec.position("problem.dims.K") == f"{tmp_path}/sub/../base.yaml:6:34"
    assert spec.position("schedule.tile.1") == f"{tmp_path}/sub/../base.yaml:14:15"
    assert spec.position("schedule.stages") == f"{tmp_path}/sub/child.yaml:5:20"


def test_extends_replaces_lists_and_takes_back_hints(tmp_path: Path) -> None:
    child = "gemmgen: 1\nextends: base.yaml\nschedule: {tile: auto}\ntargets: [sm_100a]\n"
    write(tmp_path, base=BASE, child=child)
    spec = load_spec(tmp_path / "child.yaml")
    assert spec.schedule.tile is None
    assert spec.targets == ("sm_100a",)
    assert "targets.1" not in spec.positions


def test_replacing_a_mapping_drops_its_positions(tmp_path: Path) -> None:
    child = "gemmgen: 1\nextends: base.yaml\noperands: {a: {dtype: e5m2, scale: null}, b: {scale: null}}\n"
    write(tmp_path, base=BASE, child=child)
    spec = load_spec(tmp_path / "child.yaml")
    assert spec.operands.a.scale is None
    assert not [path for path in spec.positions if path.startswith("operands.a.scale.")]


def test_an_error_in_the_extended_file_points_there(tmp_path: Path) -> None:
    write(tmp_path, base=edited("[sm_90a]", "[sm_80]"), child="gemmgen: 1\nextends: base.yaml\n")
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "child.yaml")
    assert caught.value.where == f"{tmp_path}/base.yaml:15:11"


def test_extends_circle(tmp_path: Path) -> None:
    write(tmp_path, a="gemmgen: 1\nextends: b.yaml\n", b="gemmgen: 1\nextends: ./a.yaml\n")
    with pytest.raises(SpecError, match="circle") as caught:
        load_spec(tmp_path / "a.yaml")
    assert caught.value.where == f"{tmp_path}/b.yaml:2:10"


def test_extends_itself(tmp_path: Path) -> None:
    write(tmp_path, a="gemmgen: 1\nextends: a.yaml\n")
    with pytest.raises(SpecError, match="circle"):
        load_spec(tmp_path / "a.yaml")


def test_extends_depth(tmp_path: Path) -> None:
    files = {f"f{i}": f"gemmgen: 1\nextends: f{i + 1}.yaml\n" for i in range(20)}
    write(tmp_path, **files, f20=BASE)
    with pytest.raises(SpecError, match="too many files"):
        load_spec(tmp_path / "f0.yaml")
    assert load_spec(tmp_path / "f13.yaml").name == "test_gemm"
