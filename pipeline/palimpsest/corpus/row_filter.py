"""Conditions on rows: `"precision >= 0.97 and tier = 'tiny'"` as an expression that pyarrow filters by.

SQL is parsed by sqlglot and translated node by node; nothing is evaluated. The language: `and or not`, `= != < <= > >=`, `in`,
`between`, `like`, `is [not] null`, `+ - * /`, numbers, 'strings', true, false, date and timestamp literals, columns, and
`extra['key']` for a key of a map column.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from sqlglot import errors, exp, parse_one

from palimpsest.errors import UsageError

Where: TypeAlias = str | pc.Expression
COMPARISONS: dict[type, Callable[[Any, Any], pc.Expression]] = {
    exp.EQ: operator.eq,
    exp.NEQ: operator.ne,
    exp.LT: operator.lt,
    exp.LTE: operator.le,
    exp.GT: operator.gt,
    exp.GTE: operator.ge,
}
ARITHMETIC: dict[type, Callable[[Any, Any], pc.Expression]] = {
    exp.Add: pc.add,
    exp.Sub: pc.subtract,
    exp.Mul: pc.multiply,
    exp.Div: pc.divide,
}


class UnknownColumn(UsageError):
    """There is no such column; the message names the closest one, or all of them."""

    def __init__(self, name: str, names: Collection[str]) -> None:
        close = difflib.get_close_matches(name, names, 1)
        choices = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(names)}"
        super().__init__(f"there is no column {name!r}: {choices}")


def condition(where: Where | None, schema: pa.Schema) -> pc.Expression | None:
    """`where` as an expression over the columns of `schema`; None without a condition.

    Raises:
        UnknownColumn, UsageError: the condition cannot be parsed or does not fit the types of the columns.
    """
    if where is None:
        return None
    shown = where if isinstance(where, str) else str(where)
    try:
        expression = _translated(where, schema) if isinstance(where, str) else where
        filtered = pads.dataset(schema.empty_table()).scanner(filter=expression)
        filtered.to_table()
    except UnknownColumn:
        raise
    except (pa.ArrowException, TypeError, ValueError, RecursionError) as error:
        if missing := re.search(r"FieldRef\.Name\(([^)]*)\)", str(error)):
            raise UnknownColumn(missing[1], schema.names) from None
        raise UsageError(f"where = {shown[:200]!r}: {str(error) or type(error).__name__}") from error
    return expression


def _translated(text: str, schema: pa.Schema) -> pc.Expression:
    try:
        tree = parse_one(text)
    except errors.SqlglotError as error:
        reason = re.sub(r"\x1b\[\d+m", "", str(error)).splitlines()[0]
        raise ValueError(reason) from None
    return _Translation(schema).expression(tree)


class _Translation:
    """sqlglot's tree -> pyarrow's, with literals in the types of the columns that they are compared with."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema

    def expression(self, node: exp.Expr) -> pc.Expression:
        """A node that is a condition or a value."""
        match node:
            case exp.And():
                return self.expression(node.this) & self.expression(node.expression)
            case exp.Or():
                return self.expression(node.this) | self.expression(node.expression)
            case exp.Not():
                return ~self.expression(node.this)
            case exp.Paren():
                return self.expression(node.this)
            case exp.Is() if isinstance(node.expression, exp.Null):
                return self.expression(node.this).is_null()
            case exp.In() if node.expressions:
                return self._in(node)
            case exp.Between():
                value = self.expression(node.this)
                low, high = (self._typed(node.args[end], node.this) for end in ("low", "high"))
                return (value >= low) & (value <= high)
            case exp.Like() | exp.ILike() if isinstance(node.expression, exp.Literal) and node.expression.is_string:
                ignore_case = isinstance(node, exp.ILike)
                return pc.match_like(self.expression(node.this), node.expression.this, ignore_case=ignore_case)
        if compare := COMPARISONS.get(type(node)):
            return compare(self._typed(node.this, node.expression), self._typed(node.expression, node.this))
        if compute := ARITHMETIC.get(type(node)):
            return compute(*(self.expression(side).cast(pa.float64()) for side in (node.this, node.expression)))
        return self._value(node)

    def _value(self, node: exp.Expr) -> pc.Expression:
        if isinstance(node, exp.Column) and not node.table:
            if node.name not in self.schema.names:
                hint = "; strings take single quotes" if node.this.quoted else ""
                error = UnknownColumn(node.name, self.schema.names)
                error.args = (f"{error}{hint}",)
                raise error
            return pc.field(node.name)
        if isinstance(node, exp.Bracket) and isinstance(node.this, exp.Column) and len(node.expressions) == 1:
            key = node.expressions[0]
            if isinstance(key, exp.Literal) and key.is_string:
                return pc.map_lookup(self._value(node.this), pa.scalar(key.this), "first")
        return pc.scalar(_literal(node))

    def _in(self, node: exp.In) -> pc.Expression:
        values = [_literal(value) for value in node.expressions]
        if None in values:
            raise ValueError("null in a list matches nothing; write … is null")
        column = self._type(node.this)
        found = self.expression(node.this)
        known = found.isin([_cast(value, column) for value in values] if column else values)
        return known & found.is_valid() if isinstance(node.parent, exp.Not) else known

    def _typed(self, node: exp.Expr, other: exp.Expr) -> pc.Expression:
        """A value, in the type of the column that it is compared with where it is a literal."""
        column = self._type(other)
        if column is None or not isinstance(node, exp.Literal | exp.Neg | exp.Boolean | exp.Null | exp.Cast):
            return self.expression(node)
        return pc.scalar(_cast(_literal(node), column))

    def _type(self, node: exp.Expr) -> pa.Field | None:
        return self.schema.field(node.name) if isinstance(node, exp.Column) and node.name in self.schema.names else None


def _literal(node: exp.Expr) -> Any:
    match node:
        case exp.Null():
            return None
        case exp.Boolean():
            return bool(node.this)
        case exp.Literal() if node.is_string:
            return str(node.this)
        case exp.Literal():
            return int(node.this) if re.fullmatch(r"\d+", node.this) else float(node.this)
        case exp.Neg():
            value = _literal(node.this)
            if isinstance(value, int | float) and not isinstance(value, bool):
                return -value
        case exp.Cast() if node.to.this.name in ("DATE", "TIMESTAMP", "TIMESTAMPTZ", "DATETIME"):
            return str(_literal(node.this))
    raise ValueError(f"{node.sql()!r} is not part of the language of conditions")


def _cast(value: Any, column: pa.Field) -> pa.Scalar:
    """A literal in a column's type, so that Parquet statistics can be compared with it.

    Raises:
        ValueError: naming the column, its type and the value.
    """
    kind = column.type
    try:
        if value is None:
            raise ValueError("null equals nothing; write … is null")
        if pa.types.is_timestamp(kind) and isinstance(value, str):
            moment = datetime.fromisoformat(value)
            return pa.scalar(moment if moment.tzinfo else moment.replace(tzinfo=UTC), kind)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and pa.types.is_integer(kind) and value != int(value):
            return pa.scalar(value, pa.float64())
        fits = {
            "text": pa.types.is_string(kind) or pa.types.is_large_string(kind),
            "number": pa.types.is_integer(kind) or pa.types.is_floating(kind),
            "truth": pa.types.is_boolean(kind),
        }
        if not fits["number" if number else "truth" if isinstance(value, bool) else "text"]:
            raise ValueError("of another kind")
        return pa.scalar(int(value) if number and pa.types.is_integer(kind) else value, kind)
    except (ValueError, pa.ArrowException, OverflowError) as error:
        raise ValueError(f"column {column.name!r} is {kind}, and {value!r} is not: {error}") from None
