"""Every path, command, option, module and variable that the documentation names exists.

Names with ``my_`` in them are a recipe's placeholders and are not looked up.
"""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOP_FOLDERS = ("gemmgen", "templates", "specs", "tests", "benchmarks", "docs", ".ci")
SHELLS = {"", "bash", "sh", "shell", "console"}
FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.M | re.S)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)[^)]*\)")
PATH = re.compile(rf"(?<![\w./-])((?:{'|'.join(map(re.escape, TOP_FOLDERS))})/[\w.*/{{}},-]*)")
ROOT_FILE = re.compile(r"^[\w.-]+\.(?:md|toml)$")
MODULE = re.compile(r"python3? -m (benchmarks[\w.]*)")
DOTTED = re.compile(r"^(gemmgen(?:\.[A-Za-z_]\w*)+)(?:\(.*\))?$")
VARIABLE = re.compile(r"\bGEMMGEN_[A-Z_]+\b")
PLACEHOLDER = re.compile(r"my_|<|…|\.\.\.")


@dataclass(frozen=True)
class Quote:
    """A piece of code in a document; ``text`` is one line of a fenced block or an inline span."""

    document: Path
    text: str
    language: str | None

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}: {self.text}"


def documents() -> list[Path]:
    return [path for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md") if path.exists()] + sorted(
        (ROOT / "docs").rglob("*.md")
    )


def quotes_of(document: Path, text: str) -> Iterator[Quote]:
    for language, body in FENCE.findall(text):
        for line in body.replace("\\\n", " ").splitlines():
            yield Quote(document, line.strip(), language)
    for span in INLINE.findall(FENCE.sub("", text)):
        yield Quote(document, span.strip(), None)


def quotes() -> list[Quote]:
    return [quote for document in documents() for quote in quotes_of(document, document.read_text())]


def missing_paths(quote: Quote) -> list[str]:
    """Repository paths named in a quote that do not exist; ``*`` and ``{a,b}`` stand for at least one file each."""
    named = [] if quote.language not in SHELLS | {None} else PATH.findall(quote.text)
    if quote.language is None and ROOT_FILE.match(quote.text):
        named.append(quote.text)
    missing = []
    for name in named:
        for path in expand_braces(name.rstrip(".,:")):
            beside = (quote.document.parent / path).exists()
            if not PLACEHOLDER.search(path) and not beside and not any(ROOT.glob(path.rstrip("/"))):
                missing.append(path)
    return missing


def expand_braces(path: str) -> list[str]:
    match = re.search(r"\{([^}]*)\}", path)
    if match is None:
        return [path]
    parts = (path[: match.start()] + part + path[match.end() :] for part in match[1].split(","))
    return [whole for part in parts for whole in expand_braces(part)]


def gemmgen_words(quote: Quote) -> list[str]:
    """The words of a ``gemmgen …`` command line, without the program; empty when the quote is none."""
    if quote.language not in SHELLS | {None} or not re.match(r"(?:\$ )?gemmgen [a-z-]", quote.text):
        return []
    return shlex.split(re.split(r" [|>;&]|  #", quote.text.removeprefix("$ "))[0])[1:]


def command_fault(words: list[str], command: Any) -> str:
    """Why these words are no call of the command-line program; empty when its subcommands and options exist."""
    rest = list(words)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        if name not in command.commands:
            return f"no command {name!r}, only {sorted(command.commands)}"
        command = command.commands[name]
    known = {"--help"} | {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
    unknown = [word for word in rest if re.match(r"--?[a-zA-Z]", word) and word.split("=")[0] not in known]
    return f"no option {unknown}, only {sorted(known)}" if unknown else ""


@pytest.fixture(scope="module")
def command_line():
    typer_main = importlib.import_module("typer.main")
    return typer_main.get_command(importlib.import_module("gemmgen.cli").app)


def test_readme_exists():
    assert (ROOT / "README.md") in documents()


def test_named_paths_exist():
    missing = {str(quote): paths for quote in quotes() if (paths := missing_paths(quote))}
    assert missing == {}


def test_links_lead_somewhere():
    broken = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in documents()
        for target in LINK.findall(FENCE.sub("", document.read_text()))
        if not (document.parent / target).exists()
    ]
    assert broken == []


def test_named_commands_exist(command_line):
    commands = [(quote, words) for quote in quotes() if (words := gemmgen_words(quote))]
    assert commands, "the documents name no gemmgen command"
    faults = {str(quote): fault for quote, words in commands if (fault := command_fault(words, command_line))}
    assert faults == {}


def test_named_modules_exist():
    named = {module for quote in quotes() for module in MODULE.findall(quote.text)}
    missing = [module for module in named if not ROOT.joinpath(*module.split(".")).with_suffix(".py").exists()]
    assert missing == []


def test_named_objects_exist():
    faults = []
    for quote in quotes():
        if quote.language is None and (match := DOTTED.match(quote.text)) and not exists(match[1]):
            faults.append(str(quote))
    assert faults == []


def test_named_variables_exist():
    source = "\n".join(path.read_text() for path in (ROOT / "gemmgen").rglob("*.py"))
    named = {name for document in documents() for name in VARIABLE.findall(document.read_text())}
    assert {name for name in named if name not in source and not name.endswith("_")} == set()


def exists(dotted: str) -> bool:
    """Whether a dotted name is a module, or an attribute path inside one."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for name in parts[length:]:
            found = getattr(found, name, None) or getattr(found, "__dataclass_fields__", {}).get(name)
            if found is None:
                return False
        return True
    return False


class TestTheScanItself:
    """The rules catch what they should."""

    HERE = ROOT / "docs" / "sample.md"

    def test_missing_path_is_found(self):
        for text, missing in (
            ("see gemmgen/nowhere.py", ["gemmgen/nowhere.py"]),
            ("gemmgen/errors.py", []),
            ("gemmgen/{errors,nowhere}.py", ["gemmgen/nowhere.py"]),
            ("tests/test_*.py", []),
            ("specs/my_variant.yaml", []),
            ("NOWHERE.md", ["NOWHERE.md"]),
        ):
            assert missing_paths(Quote(self.HERE, text, None)) == missing, text

    def test_code_is_found_in_fences_and_spans(self):
        text = "a `gemmgen x` b\n```bash\ngemmgen run \\\n  --dim M=1\n```\n```python\nimport a\n```\n"
        found = [(quote.text, quote.language) for quote in quotes_of(self.HERE, text)]
        assert found == [("gemmgen run    --dim M=1", "bash"), ("import a", "python"), ("gemmgen x", None)]

    def test_words_of_a_command(self):
        assert gemmgen_words(Quote(self.HERE, "$ gemmgen run a.yaml --dim M=1 | tee x", "bash")) == [
            "run",
            "a.yaml",
            "--dim",
            "M=1",
        ]
        assert gemmgen_words(Quote(self.HERE, "gemmgen.compile(x)", None)) == []

    def test_unknown_command_and_option_are_found(self):
        typer = importlib.import_module("typer")
        app = typer.Typer()
        app.command("run")(lambda spec: None)
        app.command("list")(lambda spec: None)
        command = importlib.import_module("typer.main").get_command(app)
        assert command_fault(["run", "x"], command) == ""
        assert "no command 'walk'" in command_fault(["walk"], command)
        assert "no option ['--fast']" in command_fault(["run", "x", "--fast"], command)

    def test_dotted_names(self):
        assert exists("gemmgen.errors.GemmgenError")
        assert exists("gemmgen.errors.GemmgenError.render")
        assert not exists("gemmgen.errors.Nothing")
