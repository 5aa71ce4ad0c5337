"""Files of tuned schedules: what ``gemmgen tune`` measured, for ``gemmgen.compile`` to use on any machine."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemmgen.errors import GemmgenError, TuningError
from gemmgen.runtime.cache import digest
from gemmgen.schedule import Schedule

if TYPE_CHECKING:
    from gemmgen.spec import GemmSpec

FORMAT = "gemmgen-tuned"
FILE_VERSION = 1


@dataclass(frozen=True)
class Timed:
    """A schedule, its measured time of one launch with cold L2, and what the target's model predicts."""

    schedule: Schedule
    us: float
    predicted_us: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"schedule": self.schedule.to_dict(), "us": self.us, "predicted_us": self.predicted_us}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Timed:
        """What ``to_dict`` wrote."""
        return cls(Schedule.from_dict(values["schedule"]), float(values["us"]), float(values["predicted_us"]))


@dataclass(frozen=True)
class TunedEntry:
    """What was found for one problem.

    Attributes:
        m: rows of D.
        n: columns of D.
        k: what is summed over.
        best: the schedule to use.
        heuristic: the one that a plan without tuning uses; it may be the same.
        timed: how many schedules were measured.
    """

    m: int
    n: int
    k: int
    best: Timed
    heuristic: Timed
    timed: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """M, N and K."""
        return self.m, self.n, self.k

    @property
    def faster_by(self) -> float:
        """The part of the heuristics' time that tuning saves."""
        return 1.0 - self.best.us / self.heuristic.us

    def __str__(self) -> str:
        return f"M={self.m} N={self.n} K={self.k}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        own = {"m": self.m, "n": self.n, "k": self.k, **self.best.to_dict()}
        return {**own, "heuristic": self.heuristic.to_dict(), "faster_by": self.faster_by, "timed": self.timed}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TunedEntry:
        """What ``to_dict`` wrote."""
        m, n, k, timed = (int(values[name]) for name in ("m", "n", "k", "timed"))
        return cls(m, n, k, Timed.from_dict(values), Timed.from_dict(values["heuristic"]), timed)


@dataclass(frozen=True)
class TunedPlan:
    """The entries that concern one plan.

    Attributes:
        source: the file they are from, for people.
        entries: by ascending M, of one (N, K) and one way of copying scales.
    """

    source: str = ""
    entries: tuple[TunedEntry, ...] = ()

    @property
    def key(self) -> str:
        """What tells plans with other tuned schedules apart; empty without any. The file's name is not part of it."""
        return digest(*(_canonical(entry.to_dict()) for entry in self.entries)) if self.entries else ""


UNTUNED = TunedPlan()
"""No entries: the heuristics choose."""


@dataclass(frozen=True)
class TunedFile:
    """Tuned schedules of one spec, target and GPU.

    Attributes:
        spec: the spec's name.
        identity: hash of what the spec says besides names and sizes, see ``spec_identity``.
        target: architecture.
        device: name of the GPU that measured.
        entries: at most one per M, N, K and way of copying scales.
        source: the file, for people.
    """

    spec: str
    identity: str
    target: str
    device: str
    entries: tuple[TunedEntry, ...] = ()
    source: str = "tuned"

    def with_entry(self, entry: TunedEntry) -> TunedFile:
        """The same with an entry added, or put in the place of the one for the same problem."""
        rest = [other for other in self.entries if _place(other) != _place(entry)]
        return replace(self, entries=tuple(sorted([*rest, entry], key=_place)))

    def entry_for(self, m: int, n: int, k: int, scale_copy: str = "bulk") -> TunedEntry | None:
        """The entry for a problem, if there is one."""
        return next((entry for entry in self.entries if _place(entry) == (n, k, m, scale_copy)), None)

    def for_plan(self, n: int, k: int, scale_copy: str) -> TunedPlan:
        """The entries that concern the plan of one (N, K)."""
        return TunedPlan(self.source, tuple(e for e in self.entries if _place(e) == (n, k, e.m, scale_copy)))

    def check_fits(self, spec: GemmSpec, target: str) -> None:
        """Raise TuningError unless the file was made for this spec, whatever its sizes, and target."""
        if target != self.target:
            raise TuningError("the tuned schedules are for another target", where=self.source, got=self.target,
                              need=target, fix=f"compile for {self.target}, or tune for {target}")  # fmt: skip
        if spec_identity(spec) != self.identity:
            raise TuningError(
                "the tuned schedules are for another spec",
                where=self.source,
                got=f"{self.spec}, identity {self.identity}",
                need=f"{spec.name}, identity {spec_identity(spec)}: operands, accumulation, epilogue and hints alike",
                fix="tune this spec, or leave the file out",
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as they stand in a file."""
        from gemmgen import __version__

        content = {
            "format": FORMAT,
            "version": FILE_VERSION,
            "gemmgen": __version__,
            "spec": {"name": self.spec, "identity": self.identity},
            "target": self.target,
            "device": self.device,
            "entries": [entry.to_dict() for entry in self.entries],
        }
        return {**content, "checksum": digest(_canonical(content))}

    def save(self, path: Path) -> None:
        """Write the file: readers see the old one or the whole new one, whatever interrupts this.

        Raises:
            TuningError: the file cannot be written.
        """
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(partial, "w", encoding="utf-8") as file:
                file.write(json.dumps(self.to_dict(), indent=1) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError as error:
            raise _refusal(path, "the file of tuned schedules cannot be written", error.strerror,
                           "a folder that can be written", "choose another file with -o") from error  # fmt: skip
        finally:
            with suppress(OSError):
                partial.unlink()


def load_tuned(path: str | Path) -> TunedFile:
    """The tuned schedules in a file.

    Raises:
        TuningError: it cannot be read, is damaged, or is of another version.
    """
    content = _parsed(path)
    version = content.get("version", "no version")
    if version != FILE_VERSION:
        raise _refusal(path, "the file of tuned schedules is of another version", version,
                       f"version {FILE_VERSION}", "tune again with this gemmgen")  # fmt: skip
    checksum = content.pop("checksum", None)
    if checksum != digest(_canonical(content)):
        raise _refusal(path, "the file of tuned schedules is damaged, or was edited", f"checksum {checksum}",
                       digest(_canonical(content)), "fetch it again, or tune again")  # fmt: skip
    try:
        spec, entries = content["spec"], tuple(TunedEntry.from_dict(entry) for entry in content["entries"])
        return TunedFile(spec["name"], spec["identity"], content["target"], content["device"], entries, str(path))
    except (KeyError, TypeError, ValueError, GemmgenError) as error:
        got = error.render() if isinstance(error, GemmgenError) else f"{type(error).__name__}: {error}"
        raise _refusal(path, "this gemmgen cannot read the tuned schedules", got, "what it writes itself",
                       "tune again with this gemmgen") from error  # fmt: skip


def spec_identity(spec: GemmSpec) -> str:
    """Hash of a spec without its name, its targets and its sizes: specs that agree in it can share tuned schedules."""
    values = spec.to_dict()
    values["problem"] = {**values["problem"], "dims": sorted(spec.problem.dims)}
    return digest(_canonical({key: value for key, value in values.items() if key not in ("name", "targets")}))[:16]


def _parsed(path: str | Path) -> dict[str, Any]:
    """The file's JSON, if it is one of tuned schedules."""
    need, fix = "a file that `gemmgen tune` wrote", "give the path of one"
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise _refusal(path, "the file of tuned schedules cannot be read", error.strerror, need, fix) from error
    except ValueError as error:
        raise _refusal(path, "the file of tuned schedules is damaged", error, need, "tune again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        got = content.get("format", "JSON without a format") if isinstance(content, dict) else type(content).__name__
        raise _refusal(path, "this is no file of tuned schedules", got, need, fix)
    return content


def _refusal(path: str | Path, what: str, got: object, need: str, fix: str) -> TuningError:
    return TuningError(what, where=str(path), got=got, need=need, fix=fix)


def _place(entry: TunedEntry) -> tuple[int, int, int, str]:
    """What an entry is for; also their order in a file."""
    return entry.n, entry.k, entry.m, entry.best.schedule.scale_copy


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
