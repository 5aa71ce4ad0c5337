"""Every error a user can cause: where it happened, what was given, what is needed, and how to fix it."""

from __future__ import annotations


class GemmgenError(Exception):
    """Base of all errors gemmgen raises on purpose.

    Args:
        what: one sentence that says what is wrong.
        where: ``file:line:column`` for text, the argument's name for a call, the op for IR.
        got: what was given.
        need: what would have been accepted.
        fix: the change that makes it work.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        got: object = None,
        need: object = None,
        fix: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.got = None if got is None else str(got)
        self.need = None if need is None else str(need)
        self.fix = fix
        super().__init__(self.render())

    def render(self) -> str:
        """The message: ``where: what`` and one indented line each for got, need and fix."""
        head = f"{self.where}: {self.what}" if self.where else self.what
        lines = [head]
        lines += [f"  {label}: {text}" for label, text in self._details() if text]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, str | None]:
        """The same fields for ``--json``."""
        return {"error": type(self).__name__, "what": self.what, "where": self.where, **dict(self._details())}

    def _details(self) -> list[tuple[str, str | None]]:
        return [("got", self.got), ("need", self.need), ("fix", self.fix)]


class SpecError(GemmgenError):
    """A spec file, a ``GemmSpec`` or a dimension binding is wrong."""


class ScheduleError(GemmgenError):
    """A schedule asks for something the target's hardware cannot do."""


class IRError(GemmgenError):
    """IR text or a module breaks a rule of its level."""


class TargetError(GemmgenError):
    """The target is unknown, or cannot do what the spec asks."""


class CompileError(GemmgenError):
    """NVRTC refused generated source."""


class ArgumentError(GemmgenError):
    """An argument of a kernel call is wrong; nothing was launched."""


class DriverError(GemmgenError):
    """The CUDA driver is missing or reported an error."""


class NotCompiledError(GemmgenError):
    """Strict mode: a call needed a kernel that the plan has not compiled yet."""


class TuningError(GemmgenError):
    """Tuning cannot run here, or a file of tuned schedules is damaged or made for something else."""


class EmulationError(GemmgenError):
    """PTX or a launch file that the emulator cannot run."""


class GemmgenWarning(UserWarning):
    """Something works, but not as well as it could (an unwritable cache, a fallback)."""
