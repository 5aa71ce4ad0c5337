"""Lowering to Hopper: what each async op becomes, and what it refuses."""

from __future__ import annotations

import pytest
from ir_texts import ASYNC, PROMOTED, edited, opt, refused

from gemmgen.backends.sm90.ops import Area, Launch, TensorMap
from gemmgen.errors import GemmgenError, ScheduleError
from gemmgen.ir import Module, parse_module

ROLES = "epilogue-staging,warp-specialization"
LOWER = "shared-memory-allocation,lower-sm90"
LANES = opt(ASYNC, f"{ROLES},{LOWER}")
BULK = opt(PROMOTED, f"pipelining{{stages=3}},{ROLES},{LOWER}")
REGISTERS = opt(ASYNC, f"{ROLES},register-reallocation{{producer=40,math=232}},{LOWER}")
CLUSTER = opt(PROMOTED, f"pipelining,epilogue-staging,cluster-multicast{{cluster=[2, 1]}},warp-specialization,{LOWER}")
SPLIT = opt(PROMOTED, f"split-k{{parts=2}},pipelining{{stages=3}},{ROLES},{LOWER}")
SWAPPED = opt(PROMOTED, f"swap-operands,pipelining,epilogue-staging,warp-specialization{{math_warpgroups=1}},{LOWER}")
AHEAD = f"epilogue-staging,warp-specialization{{math_warpgroups=2}},promotion-overlap,{LOWER}"
PLAIN_SUMS = edited(
    ASYNC,
    ("row_scale=%sat, col_scale=%sbt, ", ""),
    (" {col_block=128}", ""),
    *((row, "") for row in ASYNC.splitlines(keepends=True) if "load_scales" in row or "sat =" in row or "sbt =" in row),
    (' #buffer{name="sa", type=smem<f32, [128]>, engine=lanes, stage_bytes=512},', ""),
    (', #buffer{name="sb", type=smem<f32, [1]>, engine=lanes, stage_bytes=16}]', "]"),
)
"""Without scales in the steps, as where they hold for all of K."""
SUMS_OF_MMA = edited(
    PLAIN_SUMS,
    ("      %part = tile.mma(a=%at, b=%bt)", "      %next = tile.mma(a=%at, b=%bt, acc=%acc)"),
    ("      %next = tile.promote(acc=%acc, partial=%part, row=%m0, col=%n0) : frag<f32, [128, 64]>\n", ""),
)
"""Without promotion."""
PLACED = ["stage_descriptor", "stage_descriptor"]
"""Where a step's operands are, which does not wait for them to be there."""
WAVE = ["row_scales", "wgmma", "wgmma_wait"]
"""What a wave does before its promotion: it reads its own scales last."""
DESCRIPTORS = [
    '%desc_a = sm90.descriptor() {area="a", dtype="e4m3", row_bytes=128, waves=1} : i64',
    '%desc_b = sm90.descriptor() {area="b", dtype="e4m3", row_bytes=128} : i64',
]
ALONE = opt(ASYNC, "epilogue-staging,shared-memory-allocation,lower-sm90{warpgroups=2}")


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()[1:]]


def section(text: str, label: str) -> list[str]:
    """The lines of the branch that one role's warps run, without those of branches inside."""
    rows = text.splitlines()
    start = next(index for index, row in enumerate(rows) if f'sm90.warps() {{label="{label}"' in row)
    depth = len(rows[start]) - len(rows[start].lstrip())
    end = next(index for index in range(start + 1, len(rows)) if rows[index] == " " * depth + "}")
    return [row.strip() for row in rows[start : end + 1]]


def names(rows: list[str]) -> list[str]:
    """The ops of some lines, without their dialect."""
    return [row.split(" = ")[-1].split("(")[0].removeprefix("sm90.") for row in rows if "sm90." in row]


def ordered(rows: list[str], *wanted: str) -> bool:
    """Whether ops of these names follow each other in this order, others between them or not."""
    rest = iter(names(rows))
    return all(name in rest for name in wanted)


def launch(text: str) -> Launch:
    return parse_module(text).record(Launch)


def areas(module: Module) -> dict[str, Area]:
    return {area.name: area for area in module.attr("areas")}


def test_barriers_are_made_counted_and_shown_to_all():
    assert lines(LANES)[:4] == [
        '%full = sm90.barriers() {area="full", arrivals=33} : barrier<3>',
        '%empty = sm90.barriers() {area="empty", arrivals=256} : barrier<3>',
        "sm90.init_barriers(barriers=[%full, %empty])",
        'sm90.sync() {scope="cta"}',
    ]
    assert '%full = sm90.barriers() {area="full", arrivals=2} : barrier<3>' in BULK


def test_roles_become_warps_in_order():
    rows = [row for row in lines(LANES) if row.startswith("sm90.warps")]
    assert rows == [
        'sm90.warps() {label="math", first=0, count=8} do {',
        'sm90.warps() {label="load", first=8, count=1, elect=true} do {',
        'sm90.warps() {label="scales", first=9, count=1} do {',
    ]
    assert launch(LANES).threads == 320


def test_roles_that_trade_registers_stand_in_one_warpgroup():
    rows = [row for row in lines(REGISTERS) if row.startswith(("sm90.warps", "sm90.set_registers"))]
    assert rows == [
        'sm90.warps() {label="math", first=0, count=8} do {',
        "sm90.set_registers() {count=232, grow=true}",
        'sm90.warps() {label="load and scales", first=8, count=4} do {',
        "sm90.set_registers() {count=40, grow=false}",
        'sm90.warps() {label="load", first=8, count=1, elect=true} do {',
        'sm90.warps() {label="scales", first=9, count=1} do {',
    ]
    assert launch(REGISTERS).threads == 384


def test_a_loading_step():
    step = names(section(LANES, "load"))
    assert step == ["warps", "cursor", "tile_loop", "k_loop", "wait", "expect", "tma_load", "tma_load", "advance"]
    rows = section(LANES, "load")
    assert "sm90.expect(barriers=%full, cursor=%cursor_1) {transfer_bytes=24576}" in rows
    assert (
        "sm90.tma_load(map=%tma_a, barriers=%full, cursor=%cursor_1, row=%m0_1, col=%k0_1) "
        '{area="a", rows=128, row_bytes=128}'
    ) in rows
    assert "sm90.wait(barriers=%empty, cursor=%cursor_1) {flip=true}" in rows


def test_row_scales_by_bulk_copy_count_as_bytes():
    rows = section(BULK, "load")
    assert "sm90.expect(barriers=%full, cursor=%cursor_1) {transfer_bytes=25088}" in rows
    assert (
        'sm90.tma_load_scales(map=%tma_sa, barriers=%full, cursor=%cursor_1, row=%m0_1, col=%k0_1) {area="sa", '
        "count=128, block=[1, 128]}"
    ) in rows
    found = {tensor_map.arg: tensor_map for tensor_map in parse_module(BULK).attr("maps")}
    assert found["tma_sa"] == TensorMap("tma_sa", "sa", "f32", (128, 1), "none", transposed=True)
    assert found["tma_a"] == TensorMap("tma_a", "a", "e4m3", (128, 128), "128B")


def test_scales_by_lanes():
    assert names(section(LANES, "scales")) == [
        "warps",
        "cursor",
        "tile_loop",
        "k_loop",
        "wait",
        "copy_scales",
        "copy_scales",
        "copy_arrive",
        "advance",
    ]
    assert "sm90.copy_arrive(barriers=%full, cursor=%cursor_2) {lanes=32}" in LANES
    assert "sm90.copy_arrive(barriers=%full, cursor=%cursor_2) {lanes=1}" in BULK


def test_a_multiplying_step_releases_after_the_last_product():
    rows = section(LANES, "math")
    assert ordered(rows, "k_loop", "wait", "wgmma", "wgmma_wait", "release", "advance", "promote_rows")
    two_waves = opt(ASYNC, f"epilogue-staging,warp-specialization{{math_warpgroups=1}},{LOWER}")
    rows = section(two_waves, "math")
    assert names(step_of(rows)) == [
        *PLACED, "stage_descriptor", "wait", "block_scales", *WAVE, "promote_rows", *WAVE, "release",
        "advance", "promote_rows",
    ]  # fmt: skip
    assert [row for row in rows if "sm90.zero" in row] == [
        f"%{name} = sm90.zero() : frag<f32, [64, 64]>" for name in ("part", "sum", "sum_1")
    ]


def step_of(rows: list[str]) -> list[str]:
    """The lines of a role's step of K."""
    first = next(index for index, row in enumerate(rows) if row.startswith("sm90.k_loop("))
    return rows[first + 1 : rows.index("}", first)]


def overlapped(text: str) -> dict[str, list[str]]:
    """What a module's overlapped steps do: the lines of each region, its arguments first."""
    rows = section(text, "math")
    first = next(index for index, row in enumerate(rows) if row.startswith("sm90.k_overlap("))
    middle = next(index for index, row in enumerate(rows) if row.startswith("} do finish ("))
    end = rows.index("}", middle)
    started, finished = (rows[index].partition(" do ")[2] for index in (first, middle))
    return {"start": [started, *rows[first + 1 : middle]], "finish": [finished, *rows[middle + 1 : end]]}


def test_an_overlapped_step_is_cut_in_two():
    found = overlapped(opt(PROMOTED, f"pipelining{{stages=3}},{AHEAD}"))
    assert names(found["start"]) == [
        *PLACED, "wait", "block_scales", "row_scales", "keep", "keep", "wgmma", "advance"
    ]  # fmt: skip
    assert names(found["finish"]) == ["wgmma_wait_older", "release", "promote_rows", "advance"]
    assert found["start"][0] == (
        "start (%next_part: frag<f32, [64, 64]>, %next_row_scale: frag<f32, [2]>, %next_block_scale: frag<f32, [1]>) {"
    )
    assert found["finish"][0] == found["start"][0].replace("next_", "done_").replace("start", "finish")
    assert "sm90.keep(value=%row_scale, kept=%next_row_scale)" in found["start"]
    assert found["finish"][1:] == [
        "sm90.wgmma_wait_older(values=[%done_part])",
        "sm90.release(barriers=%empty, cursor=%behind) {cluster=1, lanes=true}",
        "sm90.promote_rows(acc=%sum, part=%done_part, rows=%done_row_scale, blocks=%done_block_scale, first=%n0) "
        "{block=128}",
        "sm90.advance(cursor=%behind) {stages=3}",
    ]


@pytest.mark.parametrize("option", ["lookahead=true", "unroll=2"])
def test_steps_that_overlap_neither_look_ahead_nor_are_unrolled(option: str):
    passes = f"pipelining{{stages=3}},{AHEAD}".replace("lower-sm90", f"lower-sm90{{{option}}}")
    refused(PROMOTED, "steps that overlap neither look ahead nor are unrolled", passes=passes)


AHEAD_OF_K = "pipelining{stages=3,scales_ahead=true}"
RUNS = opt(PROMOTED, f"{AHEAD_OF_K},{ROLES},{LOWER}")


def test_scales_of_a_whole_tile_are_copied_in_one_turn():
    rows = section(RUNS, "scales")
    assert names(rows) == [
        "warps", "cursor", "tile_loop", "k_loop", "wait", "copy_scales", "copy_arrive", "advance",
    ]  # fmt: skip
    assert "%runs_1 = sm90.cursor() : index" in rows
    assert "sm90.k_loop() {extent=256, step=128, parts=1, run=2} do (%k0_2: index) {" in rows
    assert "sm90.wait(barriers=%runs_empty, cursor=%runs_1) {flip=true}" in rows
    assert any(row.endswith("count=1, block=[128, 128], limit=2, run=2, columns=2}") for row in rows)
    assert "sm90.copy_arrive(barriers=%runs_full, cursor=%runs_1) {lanes=2}" in rows
    assert lines(RUNS)[:4] == [
        '%full = sm90.barriers() {area="full", arrivals=1} : barrier<3>',
        '%empty = sm90.barriers() {area="empty", arrivals=8} : barrier<3>',
        '%runs_full = sm90.barriers() {area="runs_full", arrivals=2} : barrier<2>',
        '%runs_empty = sm90.barriers() {area="runs_empty", arrivals=256} : barrier<2>',
    ]


def test_scales_of_a_whole_tile_are_waited_for_before_its_steps():
    rows = section(RUNS, "math")
    assert ordered(rows, "zero", "wait", "k_loop", "wait", "block_scales", "wgmma", "advance", "run_step", "release",
                   "advance", "staging_wait")  # fmt: skip
    assert [row for row in rows if "%runs" in row] == [
        "%runs = sm90.cursor() {steps=true} : index",
        "sm90.wait(barriers=%runs_full, cursor=%runs) {flip=false}",
        '%block_scale = sm90.block_scales(cursor=%runs) {area="sb", run=2} : frag<f32, [1]>',
        "sm90.run_step(cursor=%runs)",
        "sm90.release(barriers=%runs_empty, cursor=%runs) {cluster=1, lanes=true}",
        "sm90.advance(cursor=%runs) {stages=2}",
    ]
    assert section(RUNS, "load") == section(BULK, "load")


def test_overlapped_steps_count_scales_of_a_whole_tile_as_they_start():
    text = opt(PROMOTED, f"{AHEAD_OF_K},{AHEAD}")
    found = overlapped(text)
    assert names(found["start"]) == [
        *PLACED, "wait", "block_scales", "row_scales", "keep", "keep", "wgmma", "advance", "run_step",
    ]  # fmt: skip
    assert not any("runs" in row for row in found["finish"])
    assert ordered(section(text, "math"), "wait", "k_overlap", "run_step", "release", "advance", "staging_wait")


def test_scales_of_a_whole_tile_are_a_ctas_own():
    """In a cluster that shares a box of B, every CTA copies the few scales itself: nobody else writes its stages."""
    text = opt(
        PROMOTED, f"{AHEAD_OF_K},epilogue-staging,cluster-multicast{{cluster=[2, 1]}},warp-specialization,{LOWER}"
    )
    assert "sm90.release(barriers=%empty, cursor=%cursor) {cluster=2}" in text
    assert "sm90.release(barriers=%runs_empty, cursor=%runs) {cluster=1, lanes=true}" in text
    assert 'area="runs_empty", arrivals=256}' in text
    assert 'area="empty", arrivals=16}' in text


def test_scales_of_a_whole_tile_need_a_role_of_their_own():
    refused(
        PROMOTED,
        "scales of all steps of a tile are loaded by a role of their own",
        "fix: run warp-specialization, or leave schedule.scales_ahead auto",
        passes=f"{AHEAD_OF_K},epilogue-staging,{LOWER}",
    )


def test_a_role_loads_as_many_steps_into_every_ring():
    """One warp for both rings: it would take one step at a time for one of them, and all at once for the other."""
    text = opt(PROMOTED, f"{AHEAD_OF_K},{ROLES},shared-memory-allocation")
    start = text.index('  async.role() {name="scales"')
    copies = [row for row in text[start:].splitlines(keepends=True) if "ring=%runs" in row]
    at = text.rindex("        tile.yield()", 0, start)
    both = text[:at] + "".join(copies).replace("0_2", "0_1") + text[at:start] + "}\n"
    refused(both, "a role loads for as many steps of K into every ring", "got: [1, 2]", passes="lower-sm90")


def test_partial_sums_and_the_older_cursor_are_made_before_the_tiles():
    """Every product overwrites its partial sum, so zeros are needed once, for the compiler."""
    rows = section(opt(PROMOTED, f"pipelining{{stages=3}},{AHEAD}"), "math")
    before = rows[: next(index for index, row in enumerate(rows) if row.startswith("sm90.tile_loop("))]
    assert before[1:] == [
        "sm90.thread_position()",
        *DESCRIPTORS,
        "%part = sm90.zero() : frag<f32, [64, 64]>",
        "%part_1 = sm90.zero() : frag<f32, [64, 64]>",
        "%behind = sm90.cursor() : index",
        "%cursor = sm90.cursor() : index",
    ]
    assert "sm90.k_overlap(partials=[%part, %part_1]) {extent=256, step=128, parts=1} do start" in " ".join(rows)


def test_loads_are_those_of_steps_that_do_not_overlap():
    text = opt(PROMOTED, f"pipelining{{stages=3}},{AHEAD}")
    assert section(text, "load") == section(BULK, "load")
    assert section(text, "scales") == section(BULK, "scales")
    assert lines(text)[:4] == lines(BULK)[:4]


def test_overlapped_steps_of_a_split_tile():
    text = opt(PROMOTED, f"split-k{{parts=2}},pipelining{{stages=3}},{AHEAD}")
    assert "{extent=256, step=128, parts=2} do start" in text
    assert ordered(section(text, "math"), "k_overlap", "group_sync", "write_partial", "group_sync", "sync")


def test_overlapped_steps_of_swapped_operands():
    """A scale per column: they are kept too, two for every 8 columns."""
    text = opt(PROMOTED, f"swap-operands,pipelining,{AHEAD.replace('2}', '1}')}")
    found = overlapped(text)
    assert names(found["start"]) == [
        *PLACED, "wait", "block_scales", "column_scales", "keep", "keep", "wgmma", "advance"
    ]  # fmt: skip
    assert "%next_block_scale: frag<f32, [1]>, %next_col_scale: frag<f32, [16, 2]>" in found["start"][0]
    assert (
        "sm90.promote_columns(acc=%sum, part=%done_part, blocks=%done_block_scale, columns=%done_col_scale)"
        in found["finish"]
    )


def test_overlapped_steps_in_a_cluster_release_to_all_of_it():
    text = opt(PROMOTED, f"pipelining,epilogue-staging,cluster-multicast{{cluster=[2, 1]}},{AHEAD.partition(',')[2]}")
    assert "sm90.release(barriers=%empty, cursor=%behind) {cluster=2, lanes=true}" in overlapped(text)["finish"]


LOOKING = LOWER + "{lookahead=true}"


def test_a_step_looks_ahead_before_its_last_promotion():
    """When its stage is released and its cursors have moved on, whichever of them the places belong to."""
    passes = f"{AHEAD_OF_K},epilogue-staging,warp-specialization{{math_warpgroups=1}},{LOOKING}"
    rows = section(opt(PROMOTED, passes), "math")
    assert names(step_of(rows)) == [
        *PLACED, "stage_descriptor", "wait", "block_scales", *WAVE, "promote_rows", *WAVE, "release", "advance",
        "run_step", "look_ahead", "promote_rows",
    ]  # fmt: skip
    places = ("a_place", "a_place_1", "b_place", "sa_place", "sa_place_1")
    listed = ", ".join(f"%{name}" for name in places)
    assert f"sm90.look_ahead(barriers=%full, moved=%cursor, loaded=%loaded, places=[{listed}])" in rows
    assert [row.partition("place=%")[2].partition(")")[0] for row in step_of(rows) if "place=" in row] == list(places)
    assert "sm90.wait(barriers=%full, cursor=%cursor, unless=%loaded) {flip=false}" in rows
    assert "sm90.wait(barriers=%runs_full, cursor=%runs) {flip=false}" in rows


def test_what_steps_find_for_each_other_starts_before_the_tiles():
    rows = section(opt(PROMOTED, f"pipelining,{ROLES},{LOOKING}"), "math")
    before = rows[: next(index for index, row in enumerate(rows) if row.startswith("sm90.tile_loop("))]
    assert before[-6:] == [
        "%part = sm90.zero() : frag<f32, [64, 64]>",
        '%a_place = sm90.place(base=%desc_a) {area="a"} : u32',
        '%b_place = sm90.place(base=%desc_b) {area="b"} : u32',
        '%sa_place = sm90.place() {area="sa", waves=1} : u32',
        "%loaded = sm90.loaded() : u32",
        "%cursor = sm90.cursor() : index",
    ]


@pytest.mark.parametrize(
    ("text", "passes", "areas_found"),
    [
        (PROMOTED, "swap-operands,pipelining,epilogue-staging,warp-specialization{math_warpgroups=1}", ["b", "a"]),
        (PLAIN_SUMS, ROLES, ["a", "b"]),
        (ASYNC, "epilogue-staging", ["a", "a", "b", "sa", "sa"]),
    ],
    ids=["a scale per column", "no scales in the steps", "two waves without roles"],
)
def test_places_are_those_of_descriptors_and_row_scales(text: str, passes: str, areas_found: list[str]):
    rows = [row for row in lines(opt(text, f"{passes},{LOOKING}")) if "sm90.place(" in row]
    assert [row.split('area="')[1].split('"')[0] for row in rows] == areas_found


def test_steps_without_promotion_do_not_look_ahead():
    assert opt(SUMS_OF_MMA, f"{ROLES},{LOWER}{{lookahead=true}}") == opt(SUMS_OF_MMA, f"{ROLES},{LOWER}")


def test_only_loops_that_multiply_are_unrolled():
    text = opt(ASYNC, f"{ROLES},{LOWER}{{unroll=4}}")
    assert "sm90.k_loop() {extent=256, step=128, parts=1, unroll=4} do (%k0: index) {" in section(text, "math")
    assert text.count("unroll=4") == 1
    assert text.replace(", unroll=4", "") == LANES


def test_overlapped_steps_without_scales_keep_nothing():
    text = opt(PLAIN_SUMS, AHEAD)
    found = overlapped(text)
    assert names(found["start"]) == [*PLACED, "wait", "wgmma", "advance"]
    assert names(found["finish"]) == ["wgmma_wait_older", "release", "add_part", "advance"]
    assert found["start"][0] == "start (%next_part: frag<f32, [64, 64]>) {"


@pytest.mark.parametrize(
    ("text", "passes", "parts"),
    [
        (
            ASYNC,
            "epilogue-staging,warp-specialization{math_warpgroups=1},promotion-overlap",
            ("sm_90a overlaps promotion where a warpgroup has 64 rows", "got: 2 fragments", "use a tile of fewer rows"),
        ),
        (
            ASYNC.replace("{extent=256, step=128}", "{extent=256, step=128, ahead=2}"),
            ROLES,
            ("sm_90a overlaps promotion with the products of one step", "got: ahead=2"),
        ),
        (
            ASYNC.replace("{extent=256, step=128}", "{extent=256, step=128, ahead=1}"),
            "epilogue-staging",
            ("in a role that does not load", "run promotion-overlap after warp-specialization"),
        ),
        (
            ASYNC.replace(": ring<3>", ": ring<1>"),
            f"{ROLES},promotion-overlap",
            ("a stage is waited for that nobody can load yet", "got: 1 stages", "need: 2"),
        ),
    ],
    ids=["two fragments", "two steps ahead", "no roles", "a ring of one stage"],
)
def test_overlap_that_is_refused(text: str, passes: str, parts: tuple[str, ...]):
    refused(text, *parts, passes=f"{passes},{LOWER}")


def test_a_tile_leaves_in_the_background():
    rows = section(LANES, "math")
    assert ordered(rows, "staging_wait", "store_rows", "staging_publish", "tma_store", "store_commit", "store_drain")


def test_a_transposed_tile_leaves_as_columns():
    rows = section(SWAPPED, "math")
    assert ordered(rows, "wgmma", "promote_columns", "staging_wait", "store_columns", "tma_store")
    assert "box=[128, 64], slabs=1, waves=1, wave=0, transposed=true}" in SWAPPED
    assert 'sm90.wgmma(part=%part, cursor=%cursor, desc_a=%a_at, desc_b=%b_at) {a="b", b="a"' in SWAPPED


def test_the_first_cta_loads_a_shared_box():
    """In one piece, all of whose bytes both CTAs expect."""
    assert 'area="b", rows=64, row_bytes=128, multicast=2, leader=true}' in CLUSTER
    found = {tensor_map.arg: tensor_map.box for tensor_map in parse_module(CLUSTER).attr("maps")}
    assert (found["tma_a"], found["tma_b"]) == ((128, 128), (128, 64))
    assert "sm90.expect(barriers=%full, cursor=%cursor_1) {transfer_bytes=25088}" in section(CLUSTER, "load")
    assert (launch(CLUSTER).cluster, launch(CLUSTER).tile, launch(CLUSTER).ctas_per_tile) == (2, (256, 64), 2)


@pytest.mark.parametrize(("cluster", "shared"), [([2, 1], "b"), ([1, 2], "a")])
def test_row_scales_are_shared_where_their_rows_are(cluster: list[int], shared: str):
    passes = f"epilogue-staging,cluster-multicast{{cluster={cluster}}},warp-specialization,{LOWER}"
    rows = [row for row in section(opt(PROMOTED, f"pipelining,{passes}"), "load") if "tma_load" in row]
    assert names(rows) == ["tma_load", "tma_load", "tma_load_scales"]
    loads = dict(zip(("a", "b", "sa"), rows, strict=True))
    assert {area for area, row in loads.items() if "multicast=2" in row} == {"a": {"a", "sa"}, "b": {"b"}}[shared]
    assert {area for area, row in loads.items() if "leader=true" in row} == {shared}
    assert 'area="sa", count=128, block=[1, 128]' in loads["sa"]


@pytest.mark.parametrize("cluster", [[2, 1], [1, 2]])
def test_every_lane_releases_what_lanes_fill(cluster: list[int]):
    """32 arrivals of each of 8 warps at its own CTA's barrier, and one of each of the other CTA's 8."""
    passes = f"epilogue-staging,cluster-multicast{{cluster={cluster}}},warp-specialization,{LOWER}"
    text = opt(ASYNC, passes)
    assert "sm90.release(barriers=%empty, cursor=%cursor) {cluster=2, lanes=true}" in text
    assert '%empty = sm90.barriers() {area="empty", arrivals=264} : barrier<3>' in text


def test_one_lane_releases_what_the_copy_engine_fills():
    """Scales of blocks, which lanes copy, are in a ring of their own here."""
    assert "sm90.release(barriers=%empty, cursor=%cursor) {cluster=1}" in RUNS
    assert '%empty = sm90.barriers() {area="empty", arrivals=8} : barrier<3>' in RUNS


def test_the_multiplying_warps_of_a_cluster_end_together():
    """The others end when they are done; without roles all warps multiply."""
    assert lines(CLUSTER)[-4:] == [
        'sm90.warps() {label="end", first=0, count=8} do {',
        'sm90.sync() {scope="cluster"}',
        "}",
        "}",
    ]
    assert lines(CLUSTER).count('sm90.sync() {scope="cluster"}') == 2
    assert 'label="end"' not in LANES
    text = opt(PROMOTED, f"pipelining,epilogue-staging,cluster-multicast{{cluster=[2, 1]}},{LOWER}{{warpgroups=2}}")
    assert 'label="end"' not in text
    assert lines(text)[-2:] == ['sm90.sync() {scope="cluster"}', "}"]


def test_partial_sums_meet():
    rows = section(SPLIT, "math")
    assert ordered(rows, "k_loop", "group_sync", "write_partial", "group_sync", "sync", "reduce_store")
    assert rows.count('sm90.sync() {scope="cluster"}') == 1
    assert "staging" not in SPLIT
    assert (launch(SPLIT).cluster, launch(SPLIT).ctas_per_tile, launch(SPLIT).persistent) == (2, 2, False)
    found = areas(parse_module(SPLIT))
    assert found["exchange"] == Area("exchange", 0, 128 * 72 * 4)
    assert list(found) == ["a", "sa", "b", "sb", "exchange", "full", "empty"]


def test_warps_that_do_not_multiply_meet_behind_their_roles():
    rows = lines(SPLIT)
    assert rows[-7:] == [
        'sm90.warps() {label="meet", first=8, count=2} do {',
        'sm90.sync() {scope="cluster"}',
        "}",
        'sm90.warps() {label="end", first=0, count=8} do {',
        'sm90.sync() {scope="cluster"}',
        "}",
        "}",
    ]
    assert not any("sync" in name for label in ("load", "scales") for name in names(section(SPLIT, label)))


def test_warps_without_work_meet_too():
    """``register-reallocation`` fills the loading warpgroup up: warps 10 and 11 have no role."""
    text = opt(PROMOTED, f"split-k{{parts=2}},pipelining,{ROLES},register-reallocation{{producer=40,math=232}},{LOWER}")
    assert section(text, "meet")[0] == 'sm90.warps() {label="meet", first=8, count=4} do {'


def test_without_roles_all_warps_meet_in_one_place():
    text = opt(PROMOTED, f"split-k{{parts=2}},pipelining,epilogue-staging,{LOWER}")
    assert 'label="meet"' not in text
    assert ordered(section(text, "all"), "k_loop", "write_partial", "sync", "reduce_store")
    assert lines(text).count('sm90.sync() {scope="cluster"}') == 3


def test_without_roles_all_warps_do_everything():
    rows = section(ALONE, "all")
    assert rows[0] == 'sm90.warps() {label="all", first=0, count=8} do {'
    assert 'sm90.warps() {label="load", first=0, count=1, elect=true} do {' in rows
    assert 'sm90.warps() {label="scales", first=1, count=1} do {' in rows
    assert names(rows).count("cursor") == names(rows).count("advance") == 1
    assert launch(ALONE).threads == 256


def test_areas_are_the_allocations():
    found = areas(parse_module(LANES))
    assert found["a"] == Area("a", 0, 16384, 3)
    assert found["staging"] == Area("staging", 73728, 16384)
    assert found["full"] == Area("full", 91696, 8, 3)
    assert found["empty"] == Area("empty", 91720, 8, 3)
    assert launch(LANES).smem_bytes == 91744


def test_parameters_are_maps_then_pointers_and_strides_then_dimensions():
    args = [f"{value}: {value.type}" for value in parse_module(LANES).args]
    assert args[:3] == ["%tma_d: map", "%tma_a: map", "%tma_b: map"]
    assert args[3:6] == ["%sa: gmem<f32, [M, 2]>", "%sa_stride_row: i64", "%sa_stride_col: i64"]
    assert args[-1] == "%M: i32"


def test_ops_keep_their_place_in_the_source():
    module = parse_module(opt(ASYNC, f"{ROLES},shared-memory-allocation"), "from.ir")
    from gemmgen.backends.sm90.lowering import LowerSm90Pass
    from gemmgen.ir.rewrite import walk

    origins = {op.NAME: str(op.origin) for op in walk(LowerSm90Pass().apply(module))}
    assert origins["sm90.tma_load"].startswith("from.ir:")
    assert origins["sm90.wgmma"].startswith("from.ir:")


def test_dependent_launches_wait_and_permit():
    text = opt(ASYNC, f"{ROLES},shared-memory-allocation,lower-sm90{{pdl=true}}")
    found = names(lines(text))
    assert found[found.index("sync") :][:4] == ["sync", "grid_wait", "grid_launch", "dispatch"]
    assert found.count("grid_launch") == 1
    assert launch(text).pdl
    assert "grid_wait" not in LANES


MORE = "      %more = tile.mma(a=%at, b=%bt) : frag<f32, [128, 64]>\n"


@pytest.mark.parametrize(
    ("changes", "passes", "parts"),
    [
        ((), "lower-sm90", ("lowering needs one ring that has its place", "run pipelining and shared-memory")),
        (
            (
                ("row_scale=%sat, col_scale=%sbt", "row_scale=%sat, col_scale=%sat"),
                ("{col_block=128}", "{row_block=1}"),
            ),
            f"{ROLES},{LOWER}",
            ("sm_90a cannot promote with these scale blocks yet", "1 rows, 1 columns"),
        ),
        (
            (('{expression="acc"}', '{expression="acc * 2"}'),),
            f"{ROLES},{LOWER}",
            ("sm_90a's epilogue", "acc * 2 as bf16"),
        ),
        (
            (("      %part = tile.mma(a=%at, b=%bt)", "      %part = tile.mma(a=%at, b=%bt, acc=%acc)"),),
            f"{ROLES},{LOWER}",
            ("a step of K on sm_90a", "got: async.wait, tile.mma, tile.promote, async.release", "fix: run promotion"),
        ),
        (
            (("      %part = tile.mma", MORE + "      %part = tile.mma"),),
            f"{ROLES},{LOWER}",
            ("a step of K on sm_90a", "tile.mma, tile.mma"),
        ),
        ((("    %out =", "    %rest = tile.scaled_again(x=%sum)\n    %out ="),), "", ("unknown op",)),
    ],
)
def test_refusals(changes: tuple[tuple[str, str], ...], passes: str, parts: tuple[str, ...]):
    refused(edited(ASYNC, *changes), *parts, passes=passes)


def test_shares_are_whole_swizzle_atoms():
    """64 rows of B over 4 CTAs are 16 each; over 16 they would be 4, half an atom."""
    refused(
        ASYNC,
        "a multicast box is split into equal shares of whole swizzle atoms",
        "64 rows over 16 CTAs",
        "a multiple of 128",
        passes=f"epilogue-staging,cluster-multicast{{cluster=[16, 1]}},{LOWER}",
    )


def test_steps_of_k_are_one_swizzle_span():
    text = ASYNC.replace(", 128]>, engine=bulk", ", 64]>, engine=bulk")
    text = text.replace("smem<e4m3, [128, 128]>", "smem<e4m3, [128, 64]>").replace(
        "smem<e4m3, [64, 128]>", "smem<e4m3, [64, 64]>"
    )
    refused(text, "a K step is one swizzle span wide", "got: 64 bytes", "need: 128", passes=f"{ROLES},{LOWER}")


def test_tiles_that_wgmma_cannot_make():
    with pytest.raises(ScheduleError, match="wgmma multiplies 64 rows per warpgroup"):
        opt(ASYNC, f"epilogue-staging,warp-specialization{{math_warpgroups=3}},{LOWER}")


def test_two_boxes_of_one_operand_are_refused():
    """One tensor map per operand: a second load of A with another box would need another."""
    text = edited(
        ASYNC,
        (
            'async.load(ring=%ring, source=%b, row=%n0, col=%k0) {buffer="b"}',
            'async.load(ring=%ring, source=%a, row=%n0, col=%k0) {buffer="b"}',
        ),
    )
    refused(text, "%a would need two tensor maps", "one box per operand", passes=f"{ROLES},{LOWER}")


def test_a_role_runs_loops_over_tiles():
    text = opt(ASYNC, ROLES + ",shared-memory-allocation")
    start = '  async.role() {name="math", warps=8} do {\n'
    text = edited(text, (start, start + "    %loose = tile.zeros() : frag<f32, [64, 8]>\n"))
    refused(text, "a role runs loops over tiles", "got: tile.zeros", passes="lower-sm90")


def test_the_target_level_is_the_end():
    with pytest.raises(GemmgenError, match="pass lower-sm90 does not apply here"):
        opt(LANES, "lower-sm90")
