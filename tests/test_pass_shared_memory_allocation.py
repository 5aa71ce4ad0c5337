from __future__ import annotations

import re

import pytest
from ir_texts import ASYNC, PROMOTED, edited, opt

from gemmgen.errors import ScheduleError

STAGED = opt(ASYNC, "epilogue-staging")


def offsets(text: str) -> dict[str, int]:
    """Byte offset by name of buffer, ring, staging tile and barrier."""
    found = {m[1]: int(m[2]) for m in re.finditer(r'#buffer\{name="(\w+)"[^}]*?offset=(\d+)\}', text)}
    for name, attrs in re.findall(r"%(\w+) = async\.(?:staging|ring)\(\) \{(.*)\} :", text):
        own = re.sub(r"buffers=\[.*\]", "", attrs)
        found |= {f"{name}.offset": int(value) for value in re.findall(r"\boffset=(\d+)", own)}
    return found


def test_bulk_tiles_first_then_scales_then_barriers():
    """Three stages: a 3 · 16384, b 3 · 8192, staging 128 · 64 · 2; sa 3 · 512, sb 3 · 16; 2 · 3 barriers of 8 bytes."""
    text = opt(STAGED, "shared-memory-allocation")
    assert offsets(text) == {
        "a": 0, "b": 49152, "staging.offset": 73728, "sa": 90112, "sb": 91648, "ring.offset": 91696,
    }  # fmt: skip
    assert "{smem_bytes=91744}" in text.splitlines()[0]


def test_alignments_are_options():
    padded = edited(STAGED, ("stage_bytes=16}", "stage_bytes=20}"), ("stage_bytes=8192", "stage_bytes=8320"))
    text = opt(padded, "shared-memory-allocation{tile_align=4096,align=256}")
    assert offsets(text) == {
        "a": 0, "b": 49152, "staging.offset": 77824, "sa": 94208, "sb": 95744, "ring.offset": 95808,
    }  # fmt: skip


def test_scales_of_whole_tiles_lie_behind_those_of_steps():
    """The run ring: two stages of two scales in 16 bytes, and two barriers for each behind the other ring's."""
    text = opt(
        PROMOTED, "pipelining{stages=3,scales_ahead=true},epilogue-staging,shared-memory-allocation"
    )  # fmt: skip
    assert offsets(text) == {
        "a": 0, "b": 49152, "staging.offset": 73728, "sa": 90112, "sb": 91648, "ring.offset": 91680,
        "runs.offset": 91728,
    }  # fmt: skip
    assert "smem_bytes=91760" in text


def test_stages_that_fit_are_those_of_the_steps_ring():
    """64 KB of scales ahead leave fewer stages; their own two stay."""
    long = PROMOTED.replace("extent=256", "extent=1048576")
    with pytest.raises(ScheduleError, match="more shared memory than a CTA has") as caught:
        opt(long, "pipelining{stages=8,scales_ahead=true},epilogue-staging,shared-memory-allocation")
    assert caught.value.fix == "use 5 stages"
    opt(long, "pipelining{stages=5,scales_ahead=true},epilogue-staging,shared-memory-allocation")


def test_an_exchange_tile_lies_over_the_stages():
    """The barriers lie behind the stages, as they do without it: two for each of three stages."""
    text = opt(
        PROMOTED, "split-k{parts=2},pipelining{stages=3,scale_copy=lanes},epilogue-staging,shared-memory-allocation"
    )
    assert offsets(text) == {
        "a": 0, "b": 49152, "sa": 73728, "sb": 75264, "ring.offset": 75312, "exchange.offset": 0,
    }  # fmt: skip
    assert "smem_bytes=75360" in text


def test_barriers_lie_behind_an_exchange_tile_that_is_longer_than_the_ring():
    """One stage ends at 25104, the exchange tile of 128 · 72 floats at 36864."""
    text = opt(
        PROMOTED, "split-k{parts=2},pipelining{stages=1,scale_copy=lanes},epilogue-staging,shared-memory-allocation"
    )
    assert offsets(text)["ring.offset"] == 36864
    assert "smem_bytes=36880" in text


@pytest.mark.parametrize(("stages", "fix"), [(10, "use 8 stages"), (40, "use 8 stages")])
def test_more_than_a_cta_has_is_refused(stages: int, fix: str):
    """A stage is 25104 bytes and staging 16384: 8 stages take 217344 of 232448 bytes, 9 would take 242464."""
    with pytest.raises(ScheduleError, match="more shared memory than a CTA has") as caught:
        opt(PROMOTED, f"pipelining{{stages={stages},scale_copy=lanes}},epilogue-staging,shared-memory-allocation")
    assert caught.value.fix == fix
    assert caught.value.need == "at most 232448 bytes"
    assert f"with {stages} stages of 25104 bytes" in str(caught.value.got)


def test_a_tile_that_does_not_fit_at_all():
    with pytest.raises(ScheduleError) as caught:
        opt(STAGED, "shared-memory-allocation{budget_bytes=16000}")
    assert caught.value.fix == "use a smaller tile"
