"""Rules of the repository that a reader relies on: templates decide nothing, and torch stays optional."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from jinja2 import Environment, nodes

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = ROOT / "templates"
PACKAGE = ROOT / "gemmgen"
MAX_TEMPLATE_LINES = 60
ARITHMETIC_FILTERS = {"abs", "int", "float", "max", "min", "round", "sum"}
DECISIVE_NAMES = {"arch", "backend", "family", "kind", "layout", "sm", "spec", "target", "variant"}


def template_files() -> list[Path]:
    return sorted(path for path in TEMPLATES.rglob("*") if path.is_file())


def names_in(node: nodes.Node) -> set[str]:
    """Every variable and attribute that an expression reads."""
    found = {name.name for name in node.find_all(nodes.Name)} | {attr.attr for attr in node.find_all(nodes.Getattr)}
    if isinstance(node, nodes.Name):
        found.add(node.name)
    if isinstance(node, nodes.Getattr):
        found.add(node.attr)
    return found


def template_faults(source: str) -> list[str]:
    """What in a template computes or decides instead of printing, with line numbers."""
    tree = Environment().parse(source)
    faults = []
    for node in tree.find_all((nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow)):
        faults.append(f"line {node.lineno}: arithmetic ({type(node).__name__})")
    for node in tree.find_all(nodes.Filter):
        if node.name in ARITHMETIC_FILTERS:
            faults.append(f"line {node.lineno}: arithmetic (filter {node.name})")
    for node in tree.find_all((nodes.If, nodes.CondExpr)):
        decisive = names_in(node.test) & DECISIVE_NAMES
        if decisive:
            faults.append(f"line {node.lineno}: branches on {', '.join(sorted(decisive))}")
    return faults


def module_level_imports(tree: ast.Module) -> Iterator[str]:
    """Modules imported when the file is: everything outside functions and ``if TYPE_CHECKING``."""
    pending: list[ast.AST] = [*tree.body]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            pending += ast.iter_child_nodes(node)


def package_trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, ast.parse(path.read_text(), str(path))


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("{{ stages * 2 }}", "Mul"),
        ("{% for i in range(n - 1) %}{% endfor %}", "Sub"),
        ("{{ sizes|sum }}", "filter sum"),
        ("{% if target.name == 'sm_90a' %}a{% endif %}", "target"),
        ("{{ 'a' if op.variant else 'b' }}", "variant"),
    ],
)
def test_template_rule_catches(source, fault):
    assert fault in " ".join(template_faults(source))


@pytest.mark.parametrize(
    "source", ["a * b - {{ name }}", "{%- for x in xs -%}{{ x.text|indent(4) }}{%- endfor -%}", "{{ 'a-b' }}"]
)
def test_template_rule_lets_pass(source):
    assert template_faults(source) == []


def test_templates_hold_text_only():
    files = template_files()
    assert files, f"no templates under {TEMPLATES}"
    faults = [f"{path.relative_to(ROOT)}: {fault}" for path in files for fault in template_faults(path.read_text())]
    assert not faults, "\n".join(faults)


def test_templates_are_short():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in template_files()}
    assert lengths
    assert {name: n for name, n in lengths.items() if n > MAX_TEMPLATE_LINES} == {}


def test_every_template_environment_is_strict():
    calls = [
        (path.relative_to(ROOT), node)
        for path, tree in package_trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1].endswith("Environment")
    ]
    assert calls, "nothing in the package makes a Jinja environment"
    for path, call in calls:
        undefined = [ast.unparse(word.value) for word in call.keywords if word.arg == "undefined"]
        assert undefined == ["StrictUndefined"] or undefined == ["jinja2.StrictUndefined"], f"{path}:{call.lineno}"


def test_import_scan_sees_what_runs_at_import():
    source = (
        "if TYPE_CHECKING:\n import a\nelse:\n import b\ntry:\n import c.d\nexcept E:\n pass\ndef f():\n import e\n"
    )
    assert sorted(module_level_imports(ast.parse(source))) == ["b", "c.d"]


def test_no_module_imports_torch():
    offenders = [
        str(path.relative_to(ROOT))
        for path, tree in package_trees()
        if any(name.split(".")[0] == "torch" for name in module_level_imports(tree))
    ]
    assert offenders == []
