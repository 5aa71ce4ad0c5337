"""Passes and pipelines: small module-to-module steps with the verifier between them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from gemmgen import dump
from gemmgen.errors import IRError
from gemmgen.ir.core import Level, Module, Op
from gemmgen.ir.printer import print_module
from gemmgen.ir.rewrite import map_ops, walk
from gemmgen.ir.verifier import verify

INPUT_STAGE = "input"


@dataclass(frozen=True)
class Pass:
    """Base of all passes: a frozen dataclass whose fields are the options.

    Subclasses set ``name`` (kebab-case), document what holds ``Before:`` and ``After:``, and implement ``apply``.
    ``levels`` are the levels of module the pass accepts.
    """

    name: ClassVar[str]
    levels: ClassVar[frozenset[Level]] = frozenset(Level)

    def apply(self, module: Module) -> Module:
        """The transformed module; ``module`` itself when there is nothing to do."""
        raise NotImplementedError(f"{type(self).__name__} does not implement apply()")


@dataclass(frozen=True)
class Snapshot:
    """The module as it was after one pass.

    Args:
        stage: the pass's name; a repeated pass gets ``.2``, ``.3``…; ``input`` is the module before the first.
        module: the verified module.
        seconds: time the pass itself took, without the verifier.
    """

    stage: str
    module: Module
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class PipelineResult:
    """What a pipeline produced, and every module on the way."""

    snapshots: tuple[Snapshot, ...]

    @property
    def module(self) -> Module:
        """The module after the last pass."""
        return self.snapshots[-1].module

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of all snapshots, in order, starting with ``input``."""
        return tuple(snapshot.stage for snapshot in self.snapshots)

    def at(self, stage: str) -> Module:
        """The module after the pass called ``stage``.

        Raises:
            IRError: when no pass of that name ran.
        """
        for snapshot in self.snapshots:
            if snapshot.stage == stage:
                return snapshot.module
        raise IRError("the pipeline has no such stage", got=stage, need=", ".join(self.stages))


@dataclass(frozen=True)
class PassPipeline:
    """Passes in order."""

    passes: tuple[Pass, ...]

    def run(self, module: Module, *, dump_dir: Path | None = None) -> PipelineResult:
        """Apply every pass, verify before the first and after each, and keep every module.

        Args:
            module: where to start.
            dump_dir: write ``NN_stage.ir`` there; the default is the directory named by GEMMGEN_DUMP, if any.

        Raises:
            IRError: the module is illegal, or a pass does not accept its level or broke a law.
        """
        dump_dir = dump_dir or dump.root()
        verify(module)
        snapshots = [Snapshot(INPUT_STAGE, module)]
        _dump(dump_dir, 0, snapshots[0])
        for number, step in enumerate(self.passes, start=1):
            stage = _stage_name(step, self.passes[: number - 1])
            snapshots.append(_apply(step, stage, snapshots[-1].module))
            _dump(dump_dir, number, snapshots[-1])
            _verify_after(step, snapshots[-1].module)
        return PipelineResult(tuple(snapshots))


def _apply(step: Pass, stage: str, module: Module) -> Snapshot:
    if module.level not in step.levels:
        need = f"a module of level {' or '.join(sorted(step.levels))}"
        where = f"module @{module.name}"
        raise IRError(f"pass {step.name} does not apply here", where=where, got=module.level, need=need)
    start = time.perf_counter()
    after = step.apply(module)
    seconds = time.perf_counter() - start
    return Snapshot(stage, _stamp_origins(after, step.name) if after is not module else module, seconds)


def _stamp_origins(module: Module, pass_name: str) -> Module:
    """Give ops of unknown origin the pass that made them."""
    if all(op.origin.known for op in walk(module)):
        return module

    def stamp(op: Op) -> Op | None:
        return None if op.origin.known else op.replace(origin=op.origin.via(pass_name))

    return map_ops(module, stamp)


def _verify_after(step: Pass, module: Module) -> None:
    try:
        verify(module)
    except IRError as error:
        what = f"after pass {step.name}: {error.what}"
        raise IRError(what, where=error.where, got=error.got, need=error.need, fix=error.fix) from error


def _stage_name(step: Pass, earlier: tuple[Pass, ...]) -> str:
    count = 1 + sum(other.name == step.name for other in earlier)
    return step.name if count == 1 else f"{step.name}.{count}"


def _dump(directory: Path | None, number: int, snapshot: Snapshot) -> None:
    if directory is None:
        return
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{number:02d}_{snapshot.stage}.ir"
    path.write_text(print_module(snapshot.module, locations=True), encoding="utf-8")
