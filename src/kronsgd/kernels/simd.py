"""Vectors of `lanes` numbers that stay in registers, which LLVM does not promise for a NumPy accumulator.

Each function below is LLVM code that Numba inlines; `lanes` must be a compile-time constant. LLVM splits a vector into as
many registers as the machine needs: 64 lanes of float32 are four with AVX-512, eight with AVX2. Arrays are C-contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["add_products", "add_rows", "add_together", "dot", "equal_bits", "lowest_bit", "prefetch", "rectify"]

INT64 = ir.IntType(64)
ONE = ir.Constant(INT64, 1)


class _Vectors:
    """Loads, stores and constants of one vector type; `dtype` is a Numba type."""

    def __init__(self, context: Any, builder: Any, dtype: Any, lanes: int) -> None:
        self.context, self.builder, self.lanes = context, builder, lanes
        self.bytes = dtype.bitwidth // 8
        self.type = ir.VectorType(context.get_data_type(dtype), lanes)

    def data(self, array_type: Any, array: Any) -> Any:
        """Pointer to an array's first number."""
        return self.context.make_array(array_type)(self.context, self.builder, array).data

    def pointer(self, data: Any, offset: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(data, [offset]), self.type.as_pointer())

    def load(self, data: Any, offset: Any) -> Any:
        loaded = self.builder.load(self.pointer(data, offset))
        loaded.align = self.bytes  # NumPy promises no more
        return loaded

    def store(self, value: Any, data: Any, offset: Any) -> None:
        self.builder.store(value, self.pointer(data, offset)).align = self.bytes

    def fill(self, number: Any) -> Any:
        """All lanes equal to a scalar."""
        undefined = ir.Constant(self.type, ir.Undefined)
        one = self.builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
        return self.builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), None))

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        """a·b + c, fused where the machine can."""
        name = f"llvm.fmuladd.v{self.lanes}f{8 * self.bytes}"
        return self.builder.call(
            self.builder.module.declare_intrinsic(name, (), ir.FunctionType(self.type, [self.type] * 3)), [a, b, c]
        )

    def add_sums(
        self, out: Any, places: list[Any], start: Any, stop: Any, terms: Callable[[Any], list[tuple[Any, Any]]]
    ) -> None:
        """out[place:][:lanes] += Σ_{start ≤ p < stop} of a product of two vectors, terms(p), for each of a few places.

        Sums are loaded and stored once; their additions alternate, because each waits for the one before it in its own sum.
        """
        builder = self.builder
        entry, body, done = builder.block, builder.append_basic_block("body"), builder.append_basic_block("done")
        before = [self.load(out, place) for place in places]
        builder.cbranch(builder.icmp_signed("<", start, stop), body, done)

        builder.position_at_end(body)
        p, totals = builder.phi(INT64), [builder.phi(self.type) for _ in places]
        added = [self.multiply_add(a, b, total) for (a, b), total in zip(terms(p), totals, strict=True)]
        p_next = builder.add(p, ONE)
        builder.cbranch(builder.icmp_signed("<", p_next, stop), body, done)
        p.add_incoming(start, entry)
        p.add_incoming(p_next, body)

        builder.position_at_end(done)
        results = [builder.phi(self.type) for _ in places]  # all before the first store
        for phis in (totals, results):
            for phi, initially, later in zip(phis, before, added, strict=True):
                phi.add_incoming(initially, entry)
                phi.add_incoming(later, body)
        for result, place in zip(results, places, strict=True):
            self.store(result, out, place)


@intrinsic(prefer_literal=True)
def add_rows(
    typing: Any, lanes: Any, out: Any, offset: Any, table: Any, index: Any, value: Any, start: Any, stop: Any, first: Any
) -> Any:
    """out.flat[offset : offset + lanes] += Σ_p value[p]·table[first + index[p], :] over start ≤ p < stop.

    Shape: table (n, lanes), index (nnz,) of any whole numbers, value (nnz,) of the table's type or bits of bfloat16.
    Cost: 2·lanes flops for each p.
    """
    if not isinstance(lanes, types.IntegerLiteral):
        return None
    signature = types.void(lanes, out, types.intp, table, index, value, types.intp, types.intp, types.intp)

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, out, offset, table, index, value, start, stop, first = arguments
        vectors = _Vectors(context, builder, signature.args[3].dtype, signature.args[0].literal_value)
        out, table, index, value = (
            vectors.data(signature.args[k], array) for k, array in ((1, out), (3, table), (4, index), (5, value))
        )
        width, widen = ir.Constant(INT64, vectors.lanes), builder.sext if signature.args[4].dtype.signed else builder.zext
        rows, narrow = builder.gep(table, [builder.mul(first, width)]), signature.args[5].dtype == types.uint16

        def terms(p: Any) -> list[tuple[Any, Any]]:
            j = widen(builder.load(builder.gep(index, [p])), INT64)
            row = vectors.load(rows, builder.mul(j, width))
            number = builder.load(builder.gep(value, [p]))
            if narrow:  # the upper half of float32
                number = builder.bitcast(builder.shl(builder.zext(number, ir.IntType(32)), ir.IntType(32)(16)), ir.FloatType())
            return [(vectors.fill(number), row)]

        vectors.add_sums(out, [offset], start, stop, terms)
        return context.get_dummy_value()

    return signature, build


@intrinsic
def add_together(
    typing: Any, out: Any, table: Any, first: Any, index: Any, value: Any, starts: Any, n: Any
) -> Any:
    """out.flat[c] += Σ_{p < n} value[starts[c] + p]·table.flat[first + index[starts[c] + p]] for every c of a few sums.

    The sums' additions alternate, because each waits for the one before it in its own sum. Cost: 2·n flops for each sum.
    """
    if not isinstance(starts, types.UniTuple):
        return None
    signature = types.void(out, table, types.intp, index, value, starts, types.intp)

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, table, first, index, value, starts, n = arguments
        vectors = _Vectors(context, builder, signature.args[1].dtype, 1)
        out, table, index, value = (
            vectors.data(signature.args[k], array) for k, array in ((0, out), (1, table), (3, index), (4, value))
        )
        firsts = cgutils.unpack_tuple(builder, starts, signature.args[5].count)

        def terms(p: Any) -> list[tuple[Any, Any]]:
            places = [builder.add(start, p) for start in firsts]
            rows = [builder.add(builder.sext(builder.load(builder.gep(index, [q])), INT64), first) for q in places]
            return [(vectors.load(value, q), vectors.load(table, j)) for q, j in zip(places, rows, strict=True)]

        vectors.add_sums(out, [ir.Constant(INT64, c) for c in range(len(firsts))], ir.Constant(INT64, 0), n, terms)
        return context.get_dummy_value()

    return signature, build


@intrinsic(prefer_literal=True)
def dot(typing: Any, lanes: Any, a: Any, a_offset: Any, b: Any, b_offset: Any) -> Any:
    """Σ_{k < lanes} a.flat[a_offset + k]·b.flat[b_offset + k], added up in any order. Cost: 2·lanes flops."""
    if not isinstance(lanes, types.IntegerLiteral):
        return None
    signature = a.dtype(lanes, a, types.intp, b, types.intp)

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = _Vectors(context, builder, signature.args[1].dtype, signature.args[0].literal_value)
        rows = [
            vectors.load(vectors.data(signature.args[k], arguments[k]), arguments[k + 1]) for k in (1, 3)
        ]
        scalar = vectors.type.element
        name = f"llvm.vector.reduce.fadd.v{vectors.lanes}f{8 * vectors.bytes}"
        function = builder.module.declare_intrinsic(name, (), ir.FunctionType(scalar, [scalar, vectors.type]))
        return builder.call(function, [ir.Constant(scalar, 0.0), builder.fmul(*rows)], fastmath=("reassoc",))

    return signature, build


@intrinsic(prefer_literal=True)
def add_products(
    typing: Any, lanes: Any, n_out: Any, out: Any, offset: Any, K: Any, k_offset: Any, k_stride: Any, h: Any, h_offset: Any,
    n: Any,
) -> Any:  # fmt: skip
    """A few rows of a dense product: out.flat[offset + i·lanes :][: lanes] += Σ_{p < n} K.flat[k_offset + p·k_stride + i]·h_p
    for i < n_out, with h_p = h.flat[h_offset + p·lanes :][: lanes].

    n_out is a compile-time constant: each row of h is loaded once for all of them. Cost: 2·n_out·lanes·n flops.
    """
    if not isinstance(lanes, types.IntegerLiteral) or not isinstance(n_out, types.IntegerLiteral):
        return None
    integer = types.intp
    signature = types.void(lanes, n_out, out, integer, K, integer, integer, h, integer, integer)

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, _, out, offset, K, k_offset, k_stride, h, h_offset, n = arguments
        vectors = _Vectors(context, builder, signature.args[2].dtype, signature.args[0].literal_value)
        out, K, h = (vectors.data(signature.args[k], array) for k, array in ((2, out), (4, K), (7, h)))
        width = ir.Constant(INT64, vectors.lanes)
        places = [builder.add(offset, ir.Constant(INT64, i * vectors.lanes)) for i in range(signature.args[1].literal_value)]

        def terms(p: Any) -> list[tuple[Any, Any]]:
            row = vectors.load(h, builder.add(h_offset, builder.mul(p, width)))
            k_row = builder.gep(K, [builder.add(k_offset, builder.mul(p, k_stride))])
            numbers = [builder.load(builder.gep(k_row, [ir.Constant(INT64, i)])) for i in range(len(places))]
            return [(vectors.fill(number), row) for number in numbers]

        vectors.add_sums(out, places, ir.Constant(INT64, 0), n, terms)
        return context.get_dummy_value()

    return signature, build


@intrinsic(prefer_literal=True)
def rectify(typing: Any, lanes: Any, z: Any, offset: Any, scale: Any) -> Any:
    """In place, lanes of z.flat from `offset`: max(scale·z, 0), NaN staying NaN. Returns which are above 0, as bits."""
    if not isinstance(lanes, types.IntegerLiteral):
        return None
    signature = types.uint64(lanes, z, types.intp, z.dtype)

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = _Vectors(context, builder, signature.args[1].dtype, signature.args[0].literal_value)
        data, zero = vectors.data(signature.args[1], arguments[1]), ir.Constant(vectors.type, None)
        value = builder.fmul(vectors.load(data, arguments[2]), vectors.fill(arguments[3]))
        vectors.store(builder.select(builder.fcmp_ordered("<=", value, zero), zero, value), data, arguments[2])
        bits = builder.bitcast(builder.fcmp_ordered(">", value, zero), ir.IntType(vectors.lanes))
        return bits if vectors.lanes == 64 else builder.zext(bits, INT64)

    return signature, build


@intrinsic(prefer_literal=True)
def equal_bits(typing: Any, lanes: Any, index: Any, start: Any, wanted: Any) -> Any:
    """Which of index[start : start + lanes] are `wanted`, as bits; all of them must lie within the array."""
    if not isinstance(lanes, types.IntegerLiteral):
        return None

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = _Vectors(context, builder, signature.args[1].dtype, signature.args[0].literal_value)
        found = vectors.load(vectors.data(signature.args[1], arguments[1]), arguments[2])
        bits = builder.icmp_signed("==", found, vectors.fill(builder.trunc(arguments[3], vectors.type.element)))
        return builder.zext(builder.bitcast(bits, ir.IntType(vectors.lanes)), INT64)

    return types.uint64(lanes, index, types.intp, types.int64), build


@intrinsic
def lowest_bit(typing: Any, bits: Any) -> Any:
    """The number of the lowest set bit; `bits` must not be 0."""
    never_zero = ir.Constant(ir.IntType(1), 1)
    return types.int64(types.uint64), lambda context, builder, signature, arguments: builder.cttz(arguments[0], never_zero)


@intrinsic
def prefetch(typing: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of array.flat[index], which will be read or written soon; any index is safe."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, int32 = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = ir.FunctionType(ir.VoidType(), [byte, int32, int32, int32])
        pointer = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        intrinsic_ = builder.module.declare_intrinsic("llvm.prefetch.p0", (), function)
        builder.call(intrinsic_, [pointer, int32(0), int32(3), int32(1)])  # to read, into the first level, data
        return context.get_dummy_value()

    return types.void(array, types.intp), build
