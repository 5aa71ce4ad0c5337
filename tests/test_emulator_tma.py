"""TMA on the emulator: boxes, swizzles, what lies outside, reductions, edited tensor maps."""

from __future__ import annotations

import numpy as np
import pytest

from gemmgen.emulator import Kind, Report, TensorMap, Uninitialized, emulate
from gemmgen.errors import EmulationError

_TEMPLATE = """.version 9.0
.target sm_90a
.address_size 64
.visible .entry k(.param .align 64 .b8 map[128], .param .u64 out, .param .align 64 .b8 target[128]) {{
  .shared .align 1024 .b8 box[{bytes}];
  .shared .align 8 .b64 bar;
  .reg .pred p;  .reg .b32 t, a, b, c<6>, v;  .reg .b64 m, m2, g, o;
  mov.u32 t, %tid.x;  setp.ne.u32 p, t, 0;  @p bra DONE;
  mov.u32 a, box;  mov.u32 b, bar;
  mov.b64 m, map;  cvta.param.u64 m, m;
  mov.b64 m2, target;  cvta.param.u64 m2, m2;
  mbarrier.init.shared::cta.b64 [b], 1;
  mbarrier.arrive.expect_tx.shared::cta.b64 _, [b], {expect};
  {coordinates}
  cp.async.bulk.tensor.{rank}d.shared::cta.global.tile.mbarrier::complete_tx::bytes [a], [m, {{{names}}}], [b];
WAIT:
  mbarrier.try_wait.parity.shared::cta.b64 p, [b], 0;
  @!p bra WAIT;
  {after}
  ld.param.u64 g, [out];  cvta.to.global.u64 g, g;
  mov.u32 c0, 0;
COPY:
  add.u32 v, a, c0;
  ld.shared.b32 v, [v];
  cvt.u64.u32 o, c0;  add.u64 o, g, o;
  st.global.b32 [o], v;
  add.u32 c0, c0, 4;
  setp.lt.u32 p, c0, {bytes};
  @p bra COPY;
DONE:
  ret;
}}
"""


def load(
    tensor: TensorMap,
    where: tuple[int, ...],
    size: int,
    *,
    expect: int | None = None,
    after: str = "",
    target: TensorMap | None = None,
) -> tuple[np.ndarray, Report]:
    """Load one box at coordinates ``where``; returns the shared memory's ``size`` bytes."""
    names = [f"c{n}" for n in range(len(where))]
    moves = "  ".join(f"mov.b32 {name}, {value};" for name, value in zip(names, where, strict=True))
    expected = expect or int(np.prod(tensor.box)) * tensor.array.dtype.itemsize
    ptx = _TEMPLATE.format(
        bytes=size, expect=expected, coordinates=moves, rank=len(where), names=", ".join(names), after=after
    )
    out = np.zeros(size, np.uint8)
    report = emulate(ptx, "k", 1, 32, 1, 0, [tensor, Uninitialized(out.view(np.uint32)), target or tensor])
    return out, report


def test_plain_box() -> None:
    data = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)
    out, report = load(TensorMap(data, (48, 64), (96,), (16, 8), "u16"), (8, 10), 256)
    assert report.ok, str(report)
    assert (out.view(np.uint16).reshape(8, 16) == data[10:18, 8:24]).all()


@pytest.mark.parametrize(("swizzle", "mask"), [("128B", 7), ("64B", 3), ("32B", 1)])
def test_swizzled_box(swizzle: str, mask: int) -> None:
    span = int(swizzle[:-1])
    data = (
        np.arange(16 * span, dtype=np.uint32).astype(np.uint8).reshape(16, span)
        ^ np.arange(16, dtype=np.uint8)[:, None]
    )
    out, report = load(TensorMap(data, (span, 16), (span,), (span, 16), "u8", swizzle), (0, 0), 16 * span)
    assert report.ok, str(report)
    for row in range(16):
        for column in range(span):
            linear = row * span + column
            assert out[linear ^ (linear >> 7 & mask) << 4] == data[row, column]


def test_a_box_narrower_than_its_swizzle_keeps_the_span_as_pitch() -> None:
    data = np.arange(8 * 64, dtype=np.uint32).astype(np.uint8).reshape(8, 64)
    after = """mov.u32 c1, 64;
    FILL: add.u32 v, a, c1; st.shared.b32 [v], 0; add.u32 c1, c1, 4; setp.lt.u32 p, c1, 128; @p bra FILL;"""
    out, report = load(TensorMap(data, (64, 8), (64,), (64, 8), "u8", "128B"), (0, 0), 128, expect=512, after=after)
    assert Kind.OUT_OF_BOUNDS in report.kinds()
    assert not out.any()


def test_what_lies_outside_is_filled_and_counted() -> None:
    data = np.ones((4, 16), np.float32)
    tensor = TensorMap(data, (16, 4), (64,), (8, 4), "f32", fill="nan")
    out, report = load(tensor, (12, 2), 128)
    assert report.ok, str(report)
    values = out.view(np.float32).reshape(4, 8)
    assert (values[:2, :4] == 1).all()
    assert np.isnan(values[2:]).all()
    assert np.isnan(values[:, 4:]).all()
    zeros, report = load(TensorMap(data, (16, 4), (64,), (8, 4), "f32"), (-4, -2), 128)
    assert report.ok, str(report)
    assert zeros.view(np.float32).reshape(4, 8)[2:, 4:].sum() == 8
    assert zeros.view(np.float32).sum() == 8


def test_boxes_start_at_16_bytes_along_the_innermost_axis() -> None:
    """One H200 refuses other starts: illegal instruction."""
    data = np.ones((4, 16), np.float32)
    _, report = load(TensorMap(data, (16, 4), (64,), (8, 4), "f32"), (2, 0), 128)
    assert Kind.MISALIGNED in report.kinds()
    _, report = load(TensorMap(data, (16, 4), (64,), (8, 4), "f32"), (4, 1), 128)
    assert report.ok, str(report)


def test_five_dimensions() -> None:
    data = np.arange(3 * 4 * 2 * 5 * 16, dtype=np.uint32).reshape(3, 4, 2, 5, 16)
    strides = tuple(reversed(data.strides[:-1]))
    tensor = TensorMap(data, tuple(reversed(data.shape)), strides, (4, 2, 2, 2, 1), "u32")
    out, report = load(tensor, (8, 3, 0, 1, 2), 4 * 32)
    assert report.ok, str(report)
    assert (out.view(np.uint32).reshape(1, 2, 2, 2, 4) == data[2:3, 1:3, 0:2, 3:5, 8:12]).all()


@pytest.mark.parametrize(("op", "expected"), [("add", 5.0), ("max", 3.0), ("min", 2.0)])
def test_tensor_reduction(op: str, expected: float) -> None:
    data, target = np.full((4, 8), 3, np.float32), np.full((4, 8), 2, np.float32)
    after = f"""fence.proxy.async.shared::cta; mov.u32 c0, 0; mov.u32 c1, 2;
    cp.reduce.async.bulk.tensor.2d.global.shared::cta.{op}.tile.bulk_group [m2, {{c0, c1}}], [a];
    cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;"""
    target_map = TensorMap(target, (8, 4), (32,), (8, 4), "f32")
    _, report = load(TensorMap(data, (8, 4), (32,), (8, 4), "f32"), (0, 0), 128, after=after, target=target_map)
    assert report.ok, str(report)
    assert (target[:2] == 2).all()
    assert (target[2:] == expected).all()


def test_store_between_padded_rows_is_found() -> None:
    data = np.zeros((4, 8), np.float32)
    base = np.zeros((4, 16), np.float32)
    after = """mov.u32 c0, 0; mov.u32 c1, 0;
    cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [m2, {c0, c1}], [a];
    cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;"""
    wide = TensorMap(base[:, :4], (8, 4), (64,), (8, 4), "f32")
    _, report = load(TensorMap(data, (8, 4), (32,), (8, 4), "f32"), (0, 0), 128, after=after, target=wide)
    assert Kind.OUT_OF_BOUNDS in report.kinds()


def test_a_tensor_larger_than_its_memory_is_found() -> None:
    data = np.zeros((4, 8), np.float32)
    _, report = load(TensorMap(data, (8, 64), (32,), (8, 4), "f32"), (0, 40), 128)
    assert Kind.OUT_OF_BOUNDS in report.kinds()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"box": (3, 4)}, "multiple of 16"),
        ({"box": (8, 300)}, "1 to 256"),
        ({"strides": (24,)}, "multiples of 16"),
        ({"dims": (0, 4)}, r"1 to 2\^32"),
        ({"box": (8, 4, 1)}, "rank"),
        ({"swizzle": "32B", "box": (16, 4)}, "at most 32"),
        ({"element": "f8"}, "unknown element type"),
        ({"swizzle": "256B"}, "unknown swizzle"),
        ({"element": "u32", "fill": "nan"}, "floating-point"),
        ({"offset": 4}, "multiple of 16"),
    ],
)
def test_maps_that_the_driver_would_refuse(changes: dict, message: str) -> None:
    fields = {"dims": (8, 4), "strides": (32,), "box": (8, 4), "element": "f32", **changes}
    with pytest.raises(EmulationError, match=message):
        load(TensorMap(np.zeros((4, 8), np.float32), **fields), (0, 0), 128)


_EDIT = """.version 9.0
.target sm_90a
.address_size 64
.visible .entry k(.param .u64 template, .param .u64 map, .param .u64 data, .param .u64 out) {
  .shared .align 128 .b8 copy[128];
  .shared .align 128 .b8 box[128];
  .shared .align 8 .b64 bar;
  .reg .pred p, w;  .reg .b32 t, s, a, b, v, c;  .reg .b64 g, m, d, o;
  mov.u32 t, %tid.x;  mov.u32 s, copy;  mov.u32 a, box;  mov.u32 b, bar;
  ld.param.u64 g, [template];  ld.param.u64 m, [map];  ld.param.u64 d, [data];
  mul.wide.u32 o, t, 4;  add.u64 o, g, o;
  ld.global.b32 v, [o];
  mad.lo.u32 c, t, 4, s;
  st.shared.b32 [c], v;
  bar.warp.sync -1;
  setp.ne.u32 p, t, 0;
  @!p tensormap.replace.tile.global_address.shared::cta.b1024.b64 [s], d;
  @!p tensormap.replace.tile.global_dim.shared::cta.b1024.b32 [s], 1, 2;
  @!p mbarrier.init.shared::cta.b64 [b], 1;
  bar.warp.sync -1;
  tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [m], [s], 128;
  @p bra REST;
  ACQUIRE
  mbarrier.arrive.expect_tx.shared::cta.b64 _, [b], 128;
  cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes [a], [m, {0, 0}], [b];
REST:
WAIT:
  mbarrier.try_wait.parity.shared::cta.b64 w, [b], 0;
  @!w bra WAIT;
  mad.lo.u32 c, t, 4, a;
  ld.shared.b32 v, [c];
  ld.param.u64 o, [out];  mul.wide.u32 g, t, 4;  add.u64 o, o, g;
  st.global.b32 [o], v;
  ret;
}
"""


@pytest.mark.parametrize("acquires", [True, False])
def test_a_map_edited_on_the_device(acquires: bool) -> None:
    acquire = "fence.proxy.tensormap::generic.acquire.gpu [m], 128;" if acquires else ""
    data = np.arange(32, dtype=np.float32).reshape(4, 8)
    nothing = TensorMap(np.zeros((4, 8), np.float32), (8, 4), (32,), (8, 4), "f32")
    template = np.frombuffer(nothing.encode(1 << 40, "template"), np.uint8).copy()
    out, room = np.zeros(32, np.float32), np.zeros(128, np.uint8)
    report = emulate(_EDIT.replace("ACQUIRE", acquire), "k", 1, 32, 1, 0, [template, room, data, Uninitialized(out)])
    if not acquires:
        assert report.kinds() == {Kind.PROXY_FENCE}
        return
    assert report.ok, str(report)
    assert (out.reshape(4, 8)[:2] == data[:2]).all()
    assert (out.reshape(4, 8)[2:] == 0).all()
