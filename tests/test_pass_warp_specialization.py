from __future__ import annotations

from ir_texts import ASYNC, PROMOTED, WORDS_PROMOTED, body_of, edited, opt, refused, roles_of

LOADING = [
    "tile.for_tiles() {rows=M, cols=192, tile=[128, 64]} do (%m0_@: index, %n0_@: index) {",
    "tile.for_k() {extent=256, step=128} do (%k0_@: index) {",
    "async.acquire(ring=%ring)",
    "async.commit(ring=%ring)",
    "tile.yield()",
]


def role(text: str, name: str) -> list[str]:
    """The lines of one role, its own first."""
    return roles_of(text)[name]


def test_loads_and_products_part():
    text = opt(ASYNC, "warp-specialization")
    steps = ("async.acquire", "async.load", "async.commit")
    math = [line for line in body_of(ASYNC)[1:] if not line.startswith(steps)]
    assert role(text, "math") == ['async.role() {name="math", warps=8} do {', *math]
    load = [line.replace("@", "1") for line in LOADING]
    load[3:3] = [
        'async.load(ring=%ring, source=%a, row=%m0_1, col=%k0_1) {buffer="a"}',
        'async.load(ring=%ring, source=%b, row=%n0_1, col=%k0_1) {buffer="b"}',
    ]
    assert role(text, "load") == ['async.role() {name="load", warps=1} do {', *load]
    scales = [line.replace("@", "2") for line in LOADING]
    scales[3:3] = [
        'async.load_scales(ring=%ring, source=%sa, row=%m0_2, col=%k0_2) {buffer="sa", block=[1, 128], engine=lanes}',
        'async.load_scales(ring=%ring, source=%sb, row=%n0_2, col=%k0_2) {buffer="sb", block=[128, 128], engine=lanes}',
    ]
    assert role(text, "scales") == ['async.role() {name="scales", warps=1} do {', *scales]


def test_declarations_stay_outside():
    lines = body_of(opt(ASYNC, "epilogue-staging,warp-specialization"))
    assert [line.split("(")[0] for line in lines[:2]] == ["%staging = async.staging", "%ring = async.ring"]


def test_warpgroups_are_an_option():
    assert 'async.role() {name="math", warps=12}' in opt(ASYNC, "warp-specialization{math_warpgroups=3}")


def test_no_role_for_copies_that_there_are_none_of():
    plain = edited(
        PROMOTED,
        ("row_scale=%sat, col_scale=%sbt, ", ""),
        (" {col_block=128}", ""),
        ('      %sat = tile.load_scales(source=%sa, row=%m0, col=%k0) {block=[1, 128]} : smem<f32, [128]>\n', ""),
        ('      %sbt = tile.load_scales(source=%sb, row=%n0, col=%k0) {block=[128, 128]} : smem<f32, [1]>\n', ""),
    )  # fmt: skip
    assert 'name="scales"' not in opt(plain, "pipelining,warp-specialization")


def test_loaders_keep_the_cluster_and_the_parts():
    text = opt(PROMOTED, "split-k{parts=2},pipelining{scale_copy=lanes},warp-specialization")
    assert text.count("tile=[128, 64], split=2, persistent=false}") == 3
    assert text.count("{extent=256, step=128, parts=2}") == 3


def test_it_runs_once():
    refused(
        ASYNC,
        "the module has roles already",
        "fix: run the pass once",
        passes="warp-specialization,warp-specialization",
    )


def test_it_needs_a_ring():
    text = "module @k level=async target=sm_90a () {\n}\n"
    refused(text, "no ring to put between the roles", "fix: run pipelining first", passes="warp-specialization")


def test_a_role_has_warps():
    refused(ASYNC, "role 'math' has no warps", "got: 0", passes="warp-specialization{math_warpgroups=0}")


def test_the_tile_level_is_too_early():
    refused(PROMOTED, "pass warp-specialization does not apply here", passes="warp-specialization")


PLAIN = edited(
    PROMOTED,
    ("row_scale=%sat, col_scale=%sbt, ", ""),
    (" {col_block=128}", ""),
    ('      %sat = tile.load_scales(source=%sa, row=%m0, col=%k0) {block=[1, 128]} : smem<f32, [128]>\n', ""),
    ('      %sbt = tile.load_scales(source=%sb, row=%n0, col=%k0) {block=[128, 128]} : smem<f32, [1]>\n', ""),
)  # fmt: skip
STEPS = ("async.acquire", "async.commit", "async.wait", "async.release")


def turns(text: str, name: str) -> list[str]:
    """What a role does with the stages of rings, in order."""
    return [line.removeprefix("async.").replace("(ring=%", " ").rstrip(")") for line in role(text, name)
            if line.startswith(STEPS)]  # fmt: skip


def test_a_promoting_role_that_reads_no_scales_leaves_the_operands_stages_alone():
    """Its warps would only delay the stage, and the barrier would count them."""
    text = opt(PLAIN, "pipelining,warp-specialization{accumulators=2}")
    assert turns(text, "math") == ["wait parts", "release parts"]
    assert not [line for line in role(text, "math") if "%ring" in line]
    assert turns(text, "mma") == ["wait ring", "acquire parts", "commit parts", "release ring"]


def test_a_promoting_role_that_reads_scales_waits_for_them():
    text = opt(ASYNC, "warp-specialization{accumulators=2}")
    assert turns(text, "math") == ["wait ring", "wait parts", "release parts", "release ring"]
    assert turns(text, "mma") == ["wait ring", "acquire parts", "commit parts", "release ring"]
    assert "%sat" not in "".join(role(text, "mma"))


def test_words_go_from_ring_to_ring_by_a_role_of_their_own():
    text = opt(WORDS_PROMOTED, "pipelining{stages=3},warp-specialization{accumulators=2}")
    assert turns(text, "load") == ["acquire words", "commit words", "acquire ring", "commit ring"]
    assert turns(text, "scales") == ["acquire ring", "wait words", "release words", "commit ring"]
    assert turns(text, "math") == ["wait parts", "release parts"]
    assert turns(text, "mma") == ["acquire parts", "wait ring", "release ring", "commit parts"]
    (product,) = [line for line in role(text, "mma") if line.startswith("async.mma(")]
    assert "scale_a=%sat_1, scale_b=%sbt_1" in product
    assert '{buffer="part", accumulate=true, vector_a=32, vector_b=128}' in product
    arranged = [line for line in role(text, "scales") if line.startswith("async.arrange")]
    assert len(arranged) == 2
    assert not [name for name in ("load", "math", "mma") if any("async.arrange" in line for line in role(text, name))]


def test_gathered_words_need_no_other_ring():
    text = opt(WORDS_PROMOTED, "pipelining{stages=3,scale_copy=lanes},warp-specialization{accumulators=2}")
    assert turns(text, "load") == turns(text, "scales") == ["acquire ring", "commit ring"]
    assert sum("arranged=true" in line for line in role(text, "scales")) == 2


def test_scales_of_a_pair_are_waited_for_by_those_who_read_them():
    text = opt(ASYNC, "cta-pairs,warp-specialization{accumulators=2}")
    assert turns(text, "load") == ["acquire ring", "commit ring"]
    assert turns(text, "scales") == ["acquire scales", "commit scales"]
    assert turns(text, "math") == ["wait scales", "wait parts", "release parts", "release scales"]
    assert turns(text, "mma") == ["wait ring", "acquire parts", "commit parts", "release ring"]
    assert '%parts = async.ring() {buffers=[#buffer{name="part"' in text
    (parts,) = [line for line in body_of(text) if line.startswith("%parts")]
    assert parts.endswith("ctas=2} : ring<2>")


def test_without_tensor_memory_the_math_role_keeps_all_that_it_reads():
    assert turns(opt(PLAIN, "pipelining,warp-specialization"), "math") == ["wait ring", "release ring"]


def test_scales_of_whole_tiles_are_the_scales_roles_only():
    """Its one ring is that of the scales; the operands' is turned by the copy engine's thread, and both are read."""
    text = opt(PROMOTED, "pipelining{stages=3,scales_ahead=true},warp-specialization")
    load, scales = [line.replace("@", "1") for line in LOADING], [line.replace("@", "2") for line in LOADING]
    load[3:3] = [
        'async.load(ring=%ring, source=%a, row=%m0_1, col=%k0_1) {buffer="a"}',
        'async.load_scales(ring=%ring, source=%sa, row=%m0_1, col=%k0_1) {buffer="sa", block=[1, 128], engine=bulk}',
        'async.load(ring=%ring, source=%b, row=%n0_1, col=%k0_1) {buffer="b"}',
    ]
    scales[3:3] = [
        'async.load_scales(ring=%ring, source=%sb, row=%n0_2, col=%k0_2) {buffer="sb", block=[128, 128], engine=lanes}',
    ]
    assert role(text, "load") == ['async.role() {name="load", warps=1} do {', *load]
    assert role(text, "scales") == [
        'async.role() {name="scales", warps=1} do {',
        *(line.replace("%ring", "%runs") for line in scales),
    ]
    math = role(text, "math")
    for step in ("wait", "release"):
        assert [line for line in math if f"async.{step}" in line] == [
            f"async.{step}(ring=%ring)", f"async.{step}(ring=%runs)",
        ]  # fmt: skip
