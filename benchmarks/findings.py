"""What the rows of a comparison say: mean speeds, shapes slower than a peer, and times that fall when M grows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .harness import geometric_mean
from .peers import BF16_LARGEST_M

if TYPE_CHECKING:
    from .compare import Row

SMALL_M = 128
FALL_LIMIT = 1.03
"""How much longer a smaller M may take than a larger one: more than replays of one kernel differ."""
SPEEDS = {"speed_deepgemm": "x DeepGEMM", "speed_cublas": "x cuBLASLt", "speed_floor": " of the floor's speed"}
GROUPS = {"m_le_128": f"M <= {SMALL_M}", "m_gt_128": f"M > {SMALL_M}"}
PEERS = {"deepgemm": "DeepGEMM", "cublas": "cuBLASLt"}


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """Geometric means of the speeds over small and large M, the spread, the drift; NaN where nothing was measured."""
    result: dict[str, float] = {}
    groups = {"m_le_128": [r for r in rows if r.m <= SMALL_M], "m_gt_128": [r for r in rows if r.m > SMALL_M]}
    for name, group in groups.items():
        for field in SPEEDS:
            result[f"{name}.{field}"] = geometric_mean(_known(getattr(r, field) for r in group))
    spreads = sorted(_known((r.max_us - r.min_us) / r.us for r in rows))
    result["median_spread"] = spreads[len(spreads) // 2] if spreads else math.nan
    result["cublas_drift"] = geometric_mean(_known(r.cublas_us / r.recorded_cublas_us for r in rows))
    result["worst_speed_bf16"] = min(_known(r.speed_bf16 for r in rows), default=math.nan)
    result["worst_diff"] = max(_known(r.diff for r in rows), default=math.nan)
    result["failures"] = float(sum(r.failed for r in rows))
    return result


def slower(rows: Sequence[Row], peer: str) -> list[Row]:
    """Rows that take longer than ``peer`` (``deepgemm``, ``cublas``, ``bf16``), the worst first."""
    return sorted((r for r in rows if _speed(r, peer) < 1), key=lambda r: _speed(r, peer))


def falls(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Pairs of one (N, K) of which the first, with the smaller M, takes longer than `FALL_LIMIT` times the second."""
    ordered = sorted((r for r in rows if not math.isnan(r.us)), key=lambda r: (r.n, r.k, r.m))
    pairs = itertools.combinations(ordered, 2)
    return [(x, y) for x, y in pairs if (x.n, x.k) == (y.n, y.k) and x.us > FALL_LIMIT * y.us]


def named(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """The shapes behind the sentences of `text`, for JSON."""
    lists: dict[str, list[Any]] = {
        f"slower_than_{peer}": [str(r.shape) for r in slower(rows, peer)] for peer in (*PEERS, "bf16")
    }
    return lists | {"falls": [[str(x.shape), str(y.shape)] for x, y in falls(rows)]}


def text(rows: Sequence[Row]) -> str:
    """Everything as lines of text; what was not measured is left out."""
    found = summary(rows)
    lines = [_means(found, group, label) for group, label in GROUPS.items()]
    lines.append(_quality(found, len(rows)))
    lines += [_slower_line(rows, peer, label) for peer, label in PEERS.items()]
    lines += [_bf16_line(rows), _falls_line(rows)]
    return "\n".join(line for line in lines if line)


def _means(found: dict[str, float], group: str, label: str) -> str:
    means = {unit: found[f"{group}.{field}"] for field, unit in SPEEDS.items()}
    parts = [f"{mean:.3f}{unit}" for unit, mean in means.items() if not math.isnan(mean)]
    return f"{label}: {', '.join(parts)} (geometric means)" if parts else ""


def _quality(found: dict[str, float], shapes: int) -> str:
    parts = {
        "cublas_drift": f"cuBLASLt now / recorded: {found['cublas_drift']:.3f}",
        "median_spread": f"replays spread {100 * found['median_spread']:.1f} % (median)",
        "worst_diff": f"worst diff {found['worst_diff']:.2e}",
        "failures": f"{found['failures']:.0f} of {shapes} shapes failed",
    }
    return "; ".join(part for name, part in parts.items() if not math.isnan(found[name]))


def _slower_line(rows: Sequence[Row], peer: str, label: str) -> str:
    compared = _known(_speed(r, peer) for r in rows)
    if not compared:
        return ""
    found = slower(rows, peer)
    names = ", ".join(f"{r.shape} {_speed(r, peer):.2f}" for r in found)
    return f"slower than {label}: {len(found)} of {len(compared)} shapes" + (f": {names}" if found else "")


def _bf16_line(rows: Sequence[Row]) -> str:
    compared = [r for r in rows if not math.isnan(r.speed_bf16)]
    if not compared:
        return ""
    slow = slower(rows, "bf16")
    worst = min(compared, key=lambda r: r.speed_bf16)
    answer = f"no, slower at {len(slow)} of {len(compared)} shapes" if slow else "yes"
    return (
        f"FP8 never slower than BF16 for M <= {BF16_LARGEST_M}: {answer}, worst ratio {worst.speed_bf16:.2f} "
        f"at {worst.shape}"
    )


def _falls_line(rows: Sequence[Row]) -> str:
    if all(math.isnan(r.us) for r in rows):
        return ""
    pairs = ", ".join(f"{x.shape} {x.us:.2f} us > {y.us:.2f} us at M = {y.m}" for x, y in falls(rows))
    return f"time does not fall when M grows: {f'no: {pairs}' if pairs else 'yes'}"


def _speed(row: Row, peer: str) -> float:
    return getattr(row, f"speed_{peer}")


def _known(values: Iterable[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]
