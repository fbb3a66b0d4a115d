"""Conditions of verdicts, and what they say of rows: text such as

    error(spectrum="real", length=64) >= 0.8 and error(spectrum="ring", length=64) <= 0.1
    slope(width, "shift", mixer="lru") >= 0.95

A measure with the values of factors is its median over seeds; what it leaves open must have one value. Functions:
`least`, `most`, `mean` (of the medians over the levels of a factor), `where_least`, `where_most` (the level), `inside`
(whether the level of the least is no end of the grid), `slope` (of log over log, least squares),
`drift(measure, factor, along)` (slope over `along` of the level of `factor` where the measure is least, by a parabola),
`share(measure, bound)` (of rows that are at least as large), `largest` (of all rows), `spread` (standard deviation over
seeds), `abs`.
Comparisons, + - * /, `and`, `or`, `not`.
"""

import ast
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["CONDITIONS", "VERDICTS", "Row", "check_condition", "evaluate", "matching", "verdict"]

Row = Mapping[str, Any]
CONDITIONS = ("control", "sign", "threshold", "against")
VERDICTS = ("reproduced", "in part", "not at this size", "contradicted", "inconclusive", "incomplete", "not tried")
_BINARY = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_COMPARE = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


_BY_LEVEL = ("least", "most", "mean", "where_least", "where_most", "inside", "slope")


class MissingError(ValueError):
    """Rows that a condition asks for are not there."""


class EdgeError(ValueError):
    """The best of a grid is at its end: where the optimum lies nobody knows."""


def matching(rows: Sequence[Row], at: Mapping[str, Any]) -> list[Row]:
    """The rows with these values of factors."""
    return [row for row in rows if all(row.get(name) == value for name, value in at.items())]


def verdict(conditions: Mapping[str, str], rows: Sequence[Row], seeds: int) -> str:
    """One of `VERDICTS`, by the conditions of a claim.

    `reproduced` needs the threshold with as many seeds as the study plans wherever it looks; `in part` the sign alone;
    `contradicted` what speaks `against`; `inconclusive` is a control that fails, or an optimum at an end of a grid;
    `incomplete` are rows or seeds that are not there yet; else the effect is `not at this size`.
    """
    if not rows:
        return "not tried"
    held, fewest = {}, seeds
    try:
        for name, text in conditions.items():
            read = _Rows(rows)
            held[name] = bool(read.value(_parsed(text)))
            fewest = min([fewest, *read.seeds]) if name == "threshold" else fewest
    except MissingError:
        return "incomplete"
    except EdgeError:
        return "inconclusive"
    if not held.get("control", True):
        return "inconclusive"
    if held["threshold"] and fewest >= seeds:
        return "reproduced"
    if held["threshold"] or held.get("sign", False):
        return "in part"
    if fewest < seeds:
        return "incomplete"
    return "contradicted" if held.get("against", False) else "not at this size"


def check_condition(text: str) -> None:
    """`ValueError` for what `evaluate` does not take, before there are rows."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise ValueError(f"expected a condition, got {text!r:.80}: {error.msg}") from None
    for node in ast.walk(tree):
        if not isinstance(node, _TAKEN):
            raise ValueError(f"expected measures, numbers, comparisons, got {ast.unparse(node)!r:.60} in {text!r:.80}")


_TAKEN = (
    ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.BinOp, *_BINARY, ast.Compare,
    *_COMPARE, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant,
)  # fmt: skip


def evaluate(text: str, rows: Sequence[Row]) -> Any:
    """The value of a condition, or of a part of one.

    Raises:
        ValueError: text that is no condition, rows that are missing, a measure that varies with a factor left open.

    Example:
        >>> rows = [{"n": 1, "seed": 0, "loss": 4.0}, {"n": 2, "seed": 0, "loss": 1.0}]
        >>> evaluate('slope(loss, "n") == -2 and loss(n=2) < loss(n=1)', rows)
        True
    """
    return _Rows(rows).value(_parsed(text))


def _parsed(text: str) -> ast.expr:
    check_condition(text)
    return ast.parse(text.strip(), mode="eval").body


class _Rows:
    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.seeds: list[int] = []  # of every cell that was read

    def value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.UnaryOp(op=op, operand=operand):
                value = self.value(operand)
                return not value if isinstance(op, ast.Not) else -value
            case ast.BinOp(left=left, op=op, right=right):
                return _BINARY[type(op)](self.value(left), self.value(right))
            case ast.BoolOp(op=op, values=values):
                found = [self.value(each) for each in values]  # all of them, so that what is missing is told
                return all(found) if isinstance(op, ast.And) else any(found)
            case ast.Compare(left=left, ops=ops, comparators=others):
                sides = [self.value(each) for each in (left, *others)]
                pairs = zip(sides, ops, sides[1:], strict=False)
                # What diverged is larger than nothing.
                finite = all(not isinstance(side, float) or math.isfinite(side) for side in sides)
                return finite and all(_COMPARE[type(op)](a, b) for a, op, b in pairs)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
                at = {str(each.arg): self.value(each.value) for each in keywords}
                return self.call(name, args, at)
        raise ValueError(f"expected a measure with factors or a number, got {ast.unparse(node)!r:.60}")

    def call(self, name: str, args: Sequence[ast.expr], at: Mapping[str, Any]) -> Any:
        counts = {"abs": 1, "share": 2, "spread": 1, "largest": 1, "drift": 3} | dict.fromkeys(_BY_LEVEL, 2)
        if len(args) != counts.get(name, 0):
            expected = f"{counts[name]} arguments" if name in counts else "factors by name, as in loss(length=64)"
            raise ValueError(f"{name}: expected {expected}, got {len(args)} without a name")
        if name == "abs":
            return abs(self.value(args[0]))
        if name == "share":
            values = self.of(_name(args[0]), at)
            return sum(value >= self.value(args[1]) for value in values) / len(values)
        if name == "largest":
            return max(self.of(_name(args[0]), at))
        if name == "spread":
            return float(np.std(self.of(_name(args[0]), at), ddof=1))
        if name == "drift":
            measure, factor, along = _name(args[0]), str(self.value(args[1])), str(self.value(args[2]))
            places = {
                level: _vertex(self.levels(measure, factor, {**at, along: level}))
                for level in self.levels_of(along, at)
            }
            return _slope(places)
        if name in _BY_LEVEL:
            levels = self.levels(_name(args[0]), str(self.value(args[1])), at)
            if name == "slope":
                return _slope(levels)
            if name == "mean":
                return float(np.mean([*levels.values()]))
            best = (max if name.endswith("most") else min)(levels, key=lambda level: levels[level])
            if name == "inside":
                return min(levels) < best < max(levels)
            return best if name.startswith("where") else levels[best]
        return self.median(name, at)

    def of(self, measure: str, at: Mapping[str, Any]) -> list[float]:
        """Values of every row, whatever the factors that are left open."""
        rows = self.measured(measure, at)
        self.seeds.append(len({row["seed"] for row in rows}))  # rows of three rates are not three seeds
        return [_number(row[measure]) for row in rows]

    def measured(self, measure: str, at: Mapping[str, Any]) -> list[Row]:
        found = [row for row in matching(self.rows, at) if measure in row]
        if not found:
            raise MissingError(f"no rows with {measure} at {dict(at)}")
        return found

    def median(self, measure: str, at: Mapping[str, Any]) -> float:
        rows = self.measured(measure, at)
        self.seeds.append(len(rows))
        if len({row["seed"] for row in rows}) != len(rows):
            raise ValueError(
                f"{measure} at {dict(at)}: expected one row for each seed, got {len(rows)}; name more factors"
            )
        return float(np.median([_number(row[measure]) for row in rows]))

    def levels(self, measure: str, factor: str, at: Mapping[str, Any]) -> dict[Any, float]:
        """Medians by the levels of a factor."""
        return {level: self.median(measure, {**at, factor: level}) for level in self.levels_of(factor, at)}

    def levels_of(self, factor: str, at: Mapping[str, Any]) -> list[Any]:
        found = list(dict.fromkeys(row[factor] for row in matching(self.rows, at) if factor in row))
        if not found:
            raise MissingError(f"no rows with {factor} at {dict(at)}")
        return found


def _number(value: float | None) -> float:
    return math.inf if value is None else float(value)  # JSON has no infinity


def _slope(levels: Mapping[float, float]) -> float:
    if len(levels) < 2:
        raise MissingError("a slope needs two levels")
    x, y = (np.log(each) for each in zip(*levels.items(), strict=True))
    return float(np.polyfit(x, y, 1)[0])


def _vertex(levels: Mapping[float, float]) -> float:
    """Where a parabola in the log of the level through the least value and its two neighbours is least."""
    order = sorted(levels)
    best = min(range(len(order)), key=lambda index: levels[order[index]])
    near = order[best - 1 : best + 2] if 0 < best < len(order) - 1 else []
    if not near:
        raise EdgeError(f"the best level is {order[best]}, an end of the grid")
    if not all(math.isfinite(levels[level]) for level in near):
        return order[best]
    a, b, _ = np.polyfit(np.log(near), [levels[level] for level in near], 2)
    return float(np.exp(-b / (2 * a)))


def _name(node: ast.expr) -> str:
    if not isinstance(node, ast.Name):
        raise ValueError(f"expected the name of a measure, got {ast.unparse(node)!r:.60}")
    return node.id
