"""The documentation is followed literally: its Python, YAML, Jinja and shell blocks run, and its excerpts are real.

Conventions of the pages: a block whose first line is ``file: NAME`` in a comment is that file; Python blocks of one
page run in order in one namespace; an excerpt's first line is ``stage: NAME``, and ``…`` stands for what was left out.
"""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from jinja2 import ChoiceLoader, FileSystemLoader
from typer.testing import CliRunner

import gemmgen
from gemmgen.cli import app
from gemmgen.emit import emission, renderer
from gemmgen.ir import schema
from gemmgen.passes import registry
from gemmgen.plan import Variant
from gemmgen.runtime.disassemble import disassemble, find_nvdisasm

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
FILE_MARK = re.compile(r"(?:#|\{#) file: (\S+)(?: #\})?")
STAGE_MARK = re.compile(r"// stage: (\w+)")
GAP = "…"
REGISTERS = re.compile(r"%\w+|\{[^}]*\}|\bU?R\d+\b|\bU?P\d\b|\[[^]]*\]")
RECIPES = ("adding_a_variant.md", "adding_an_op.md", "walkthrough.md")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        """The block's lines, the marking one included."""
        return self.text.splitlines()


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, which lies in ``docs/``."""
    return [Block(*match) for match in FENCE.findall((ROOT / "docs" / page).read_text())]


def excerpts(page: str, stages: tuple[str, ...]) -> list[tuple[str, list[str]]]:
    """The stage and the lines of every excerpt of these stages."""
    found = []
    for block in blocks(page):
        mark = STAGE_MARK.fullmatch(block.lines[0])
        if mark and mark[1] in stages:
            found.append((mark[1], block.lines[1:]))
    return found


def missing_line(excerpt: list[str], text: str) -> str | None:
    """The first line of an excerpt that does not occur in ``text`` after the one before; None when all do."""
    remaining = iter(text.splitlines())
    for line in excerpt:
        parts = [part for part in line.strip().split(GAP) if part]
        if parts and not any(_has_parts(candidate, parts) for candidate in remaining):
            return line
    return None


def _has_parts(line: str, parts: list[str]) -> bool:
    position = 0
    for part in parts:
        found = line.find(part, position)
        if found < 0:
            return False
        position = found + len(part)
    return True


def without_registers(text: str) -> str:
    """Assembly with register names, register lists and addresses dropped, which differ from one NVRTC to the next."""
    return "\n".join(re.sub(r"\s+", " ", REGISTERS.sub("", line)).strip() for line in text.splitlines())


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the shipped specs, where recipes write and run.

    What they register is forgotten afterwards; what gemmgen itself registers when it is imported is in place before.
    """
    for path in (ROOT / "specs").glob("*.yaml"):
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    schema.load_dialects()
    importlib.import_module("gemmgen.backends.sm90.source")
    monkeypatch.setattr(schema, "_OPS", dict(schema._OPS))
    monkeypatch.setattr(emission, "_EMITTERS", dict(emission._EMITTERS))
    monkeypatch.setattr(registry, "_PASSES", registry.registered_passes())
    environment = renderer.environment()
    both = ChoiceLoader([environment.loader, FileSystemLoader(tmp_path / "templates")])
    monkeypatch.setattr(environment, "loader", both)
    return tmp_path


def write_files(page: str, folder: Path) -> None:
    for block in blocks(page):
        mark = FILE_MARK.fullmatch(block.lines[0])
        if mark:
            path = folder / mark[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(block.lines[1:]) + "\n")


@pytest.mark.parametrize("page", RECIPES)
def test_python_blocks_run(page, workplace):
    write_files(page, workplace)
    namespace: dict[str, object] = {}
    programs = [block.text for block in blocks(page) if block.language == "python"]
    assert programs
    for program in programs:
        exec(compile(program, page, "exec", dont_inherit=True), namespace)  # noqa: S102 (our own documentation)


@pytest.mark.gpu
def test_readme_example_runs(workplace):
    (program,) = [block.text for block in blocks("../README.md") if block.language == "python"]
    exec(compile(program, "README.md", "exec", dont_inherit=True), {})  # noqa: S102 (our own documentation)


@pytest.mark.parametrize("page", ["adding_a_variant.md", "walkthrough.md"])
def test_commands_work(page, workplace):
    write_files(page, workplace)
    lines = [line for block in blocks(page) if block.language == "bash" for line in block.lines]
    commands = [line for line in lines if line.startswith("gemmgen ")]
    assert commands
    for command in commands:
        if "--stage sass" in command and find_nvdisasm() is None:
            continue
        result = CliRunner().invoke(app, shlex.split(command)[1:])
        assert result.exit_code == 0, f"{command}\n{result.output}"


@pytest.fixture
def walked(workplace) -> Variant:
    write_files("walkthrough.md", workplace)
    return gemmgen.compile("my_walkthrough.yaml", "sm_90a").variant()


@pytest.mark.parametrize("stage", ["tile", "async", "target", "cuda"])
def test_walkthrough_shows_what_is_generated(stage, walked):
    text = walked.source if stage == "cuda" else walked.artifact.ir[stage]
    found = excerpts("walkthrough.md", (stage,))
    assert found
    for _, lines in found:
        assert missing_line(lines, text) is None


def test_walkthrough_shows_the_ptx(walked):
    ((_, lines),) = excerpts("walkthrough.md", ("ptx",))
    plain = [without_registers(line.replace("\t", " ").replace(GAP, "")) for line in lines]
    assert missing_line(plain, without_registers(walked.binary().ptx)) is None


def test_walkthrough_shows_the_sass(walked):
    if find_nvdisasm() is None:
        pytest.skip("no disassembler (pip install nvidia-cuda-nvdisasm); the SASS excerpt was not compared")
    ((_, lines),) = excerpts("walkthrough.md", ("sass",))
    binary = walked.binary()
    listing = disassemble(binary.cubin, binary.launch.entry)
    opcodes = re.findall(r"^\s+/\*\w+\*/\s+(?:@!?U?P\w+ )?([\w.]+)", listing, re.M)
    named = [re.sub(r"^@!?\w+ ", "", line).split()[0].rstrip(";") for line in lines]
    assert set(named) <= set(opcodes)


def test_numbers_quoted_in_the_walkthrough(walked):
    text = (ROOT / "docs" / "walkthrough.md").read_text()
    assert f"{walked.artifact.launch.smem_bytes:,} bytes of the 232,448" in text
    resources = walked.binary().resources
    assert f"reports {resources.registers} registers at launch, {resources.spill_store_bytes} bytes spilled" in text


def test_every_variable_is_in_the_readme():
    source = "\n".join(path.read_text() for path in (ROOT / "gemmgen").rglob("*.py"))
    readme = (ROOT / "README.md").read_text()
    assert {name for name in re.findall(r"\bGEMMGEN_[A-Z_]+\b", source) if f"| `{name}` |" not in readme} == set()


def test_an_invented_line_is_found():
    assert missing_line(["  a b", "…", "c(… e)"], "x\na b\nc(d, e)\n") is None
    assert missing_line(["a b", "c d"], "c d\na b\n") == "c d"
    assert missing_line(["c(… f)"], "c(d, e)\n") == "c(… f)"
