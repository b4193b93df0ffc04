"""A row of a table at once: its maximum and the set of actions that reach it, in the processor's vector registers.

    best_of_two      2 or 3 actions        as pairs: the first two and the last two, which may overlap
    best_of_four     4 actions
    best_of_eight    5 to 8 actions        as fours: the first four and the last four

A set is a word with a bit for each action. One comparison yields all bits, where a loop needs a comparison, a count and
a choice for each action: with four actions that was half of Q-learning's instructions.
"""

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

_WORD, _NUMBER, _LANE = ir.IntType(64), ir.DoubleType(), ir.IntType(32)


def _load(context: Any, builder: Any, signature: Any, arguments: Any, lanes: int) -> Any:
    """The first and the last `lanes` numbers of row s, and the place of the latter."""
    values = context.make_array(signature.args[0])(context, builder, arguments[0])
    width = builder.extract_value(values.shape, 1)
    row = builder.gep(values.data, [builder.mul(arguments[1], width)])
    last = builder.sub(width, ir.Constant(_WORD, lanes))
    pointer = ir.VectorType(_NUMBER, lanes).as_pointer()
    loaded = []
    for place in (row, builder.gep(row, [last])):
        loaded.append(builder.load(builder.bitcast(place, pointer)))
        loaded[-1].align = 8
    return loaded[0], loaded[1], last


def _larger(builder: Any, first: Any, second: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", first, second), first, second)


def _everywhere(builder: Any, vector: Any, lanes: int) -> Any:
    """The largest number of a vector in all of its lanes, by a butterfly."""
    order = ir.VectorType(_LANE, lanes)
    distance = lanes // 2
    while distance > 0:
        places = ir.Constant(order, [lane ^ distance for lane in range(lanes)])
        vector = _larger(builder, vector, builder.shuffle_vector(vector, vector, places))
        distance //= 2
    return vector


def _reached(builder: Any, vector: Any, best: Any, lanes: int) -> Any:
    """The lanes that hold the largest number, as bits."""
    equal = builder.fcmp_ordered("==", vector, best)
    return builder.zext(builder.bitcast(equal, ir.IntType(lanes)), _WORD)


def _best(lanes: int, overlapping: bool) -> Any:
    def typed(typing_context: Any, values: Any, s: Any) -> Any:
        assert values.layout == "C"

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            first, last, place = _load(context, builder, signature, arguments, lanes)
            best = _everywhere(builder, _larger(builder, first, last) if overlapping else first, lanes)
            bits = _reached(builder, first, best, lanes)
            if overlapping:
                bits = builder.or_(bits, builder.shl(_reached(builder, last, best, lanes), place))
            number = builder.extract_element(best, ir.Constant(_LANE, 0))
            return context.make_tuple(builder, signature.return_type, [number, bits])

        return types.Tuple((types.float64, types.uint64))(values, types.uint64), generate

    return intrinsic(typed)


best_of_two: Any = _best(2, overlapping=True)
best_of_four: Any = _best(4, overlapping=False)
best_of_eight: Any = _best(4, overlapping=True)


def _first_of(typing_context: Any, bits: Any) -> Any:
    """The lowest action of a set (which is never empty, but for rows that are not numbers: then 0)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # the ninth bit counts as the first, so that no action out of bounds comes of an empty set
        bits = builder.or_(arguments[0], ir.Constant(_WORD, 1 << 8))
        lowest = builder.cttz(bits, ir.Constant(ir.IntType(1), 1))
        return builder.and_(lowest, ir.Constant(_WORD, 7))

    return types.uint64(types.uint64), generate


def _count_of(typing_context: Any, bits: Any) -> Any:
    """How many actions are in a set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


first_of: Any = intrinsic(_first_of)
count_of: Any = intrinsic(_count_of)
