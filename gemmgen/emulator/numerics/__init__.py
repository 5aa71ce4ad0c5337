"""Exact arithmetic and layouts of the tensor cores: pure numpy functions that know nothing of PTX.

Conventions: *codes* are bit patterns in an unsigned numpy array (``uint8`` up to 8 bits, ``uint16``, ``uint32``), one
element per entry, sub-byte types unpacked; shapes are [M, K] for A and [N, K] for B whatever the memory layout was;
byte addresses are int64; lanes, rows and columns int32. Index arrays are cached and read-only. Illegal input raises
``gemmgen.errors.EmulationError``.

``formats``: number formats. Names: e4m3 e5m2 e2m1 e2m3 e3m2 ue8m0 ue4m3 bf16 f16 tf32 f32 s8 u8.
    FORMATS[name] -> NumberFormat(name, bits, exponent_bits, mantissa_bits, bias, ..., code_dtype)
    decode(codes, name) -> float64 values                        decode_f32(codes, name) -> float32 values
    leading_exponent(values, name) -> float64 2**e, 0 for zeros; subnormals keep the minimum exponent
    encode(values, name, rounding="rn", saturate=True, relu=False) -> codes     rounding: rn rz rna rp rm
    cvt_pack(high, low, name, rounding="rn", saturate=True, relu=False) -> codes of cvt...{e4m3x2,...,bf16x2,f16x2}
    cvt_unpack(packed, name) -> (high, low) codes                f32_to_tf32_rna(values) -> float32
    unpack_dense(bytes, bits) -> codes     4-bit packed pairs, low nibble first
    unpack_padded(bytes, bits) -> codes    16 elements of 4 or 6 bits at the front of each 16 bytes (tcgen05, TMA U4/U6)
    pack_dense(codes, bits) / pack_padded(codes, bits) -> bytes  (the inverses; padding is zero)

``kinds``: what the instructions accept.
    KINDS[name] -> Kind(name, k, types, d_types, scales, padded_types, .block_scaled); tensor_kind(name)
    check_wgmma_types(a, b, d), check_wgmma_shape(n, a_type)
    check_tcgen05_types(kind, a, b, d), check_tcgen05_shape(kind, cta_group, m, n)

``mma``: D = A B^T + C exactly as the tensor cores accumulate.
    wgmma(a, b, c, a_type, b_type, d_type, *, scale_a=1, scale_b=1, saturate=False, exact=False) -> D [M, N]
    tcgen05_mma(instruction, a, b, c, *, scale_a=None, scale_b=None, scale_input_d=0, exact=False) -> D [M, N]
        instruction: an InstructionDescriptor; a, b: codes [M, K], [N, K] of one instruction; c: None (D = A B^T) or
        [M, N]; c and D are float32, float16 or int32 by d_type; scale_a, scale_b: codes [M, K / block], [N, K / block]
        exact: float64 sum rounded once to d_type instead of the hardware's rule
    mma_accumulate(operand(a, type), operand(b, type), c, rule, exact=False) -> D for any K as one group
        AccumulationRule(fraction_bits, result_bits, d_type); WGMMA_FP8, WGMMA_FP8_F16, WIDE, WIDE_F16, BLOCK_FP4

``swizzle``: Swizzle.NONE B32 B64 B128 B128_ATOM32 B128_ATOM64 (.span_bytes .atom_bytes .repeat_bytes)
    Swizzle.apply(addresses, base_offset=0) -> physical addresses (its own inverse), absolute-address XOR; for TMA too

``descriptors``: shared-memory and instruction descriptors, operand addresses.
    SmemDescriptor(start, lbo, sbo, swizzle, base_offset): bytes, all decoded
    decode_wgmma(bits) / encode_wgmma(d)        decode_tcgen05(bits) / encode_tcgen05(d)
    operand_addresses(d, major, element_bytes, mn, k) -> int64 [mn, k * element_bytes] shared byte addresses, so that
        smem[addresses].view(code_dtype) is the [mn, k] operand; major "K" or "MN"; element_bytes(type) -> pitch
    InstructionDescriptor(kind, m, n, a_type, b_type, d_type, a_major, b_major, negate_a, negate_b, saturate,
        scale_type, sfa_id, sfb_id); decode_instruction(bits, kind) / encode_instruction(d)

``fragments``: who holds what. Each returns a tuple of index arrays.
    wgmma_d(n) -> row, col [128, n / 2]               element i of thread t (f16 D: the same order, two per register)
    wgmma_a(element_bits) -> row, k [128, 128 / bits] element i of thread t, packed low first into 4 registers
    matrix_8x8(transposed=False) -> row, col [32, 2]  the pair of 16-bit elements of a lane in ldmatrix/stmatrix
    tmem_load(shape, num, half_split=0) -> lane, column [32, regs]  tcgen05.ld/st, relative to the address
    accumulator(m, n, cta_group) -> cta, lane, column [m, n]
    operand_a(m, cta_group) -> cta [m], lanes [copies, m]           A in tensor memory
    scale_factor(rows, split=False) -> lanes [replicas, rows], column [rows]
    scale_atom(rows=128) -> byte offset [rows, 4]
    tmem_copy(shape, multicast=None) -> CopyShape(rows, row_bytes, lanes [copies, rows])  tcgen05.cp
"""

from __future__ import annotations
