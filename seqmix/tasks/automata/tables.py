"""Automata from transition tables, as people write them in YAML or Python.

    name: two registers
    letters: [hold, a0, a1, b0, b1]         # names or a number of letters
    start: 0
    step: [[0, 0, 2, 0, 1], [1, 1, 3, 0, 1], [2, 0, 2, 2, 3], [3, 1, 3, 2, 3]]
    output: [0, 1, 2, 3]                    # of the state that is reached; or (state, letter) by (state, letter)
    bos: true

A step of -1 is one that cannot come, an output of null one that is not asked for.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqmix._bounded import parse_yaml, read_text
from seqmix._checks import is_whole
from seqmix._suggest import unknown_name
from seqmix.tasks.automata.automaton import IGNORE, Automaton, Table

__all__ = ["from_table", "moore", "read_table"]

_KEYS = ("name", "letters", "start", "step", "output", "bos")


def from_table(table: Mapping[str, Any]) -> Automaton:
    """The automaton of a table: letters are tokens 0, 1, ..., answers too, and a BOS is the last token.

    Args:
        table: `step` (Q, L), and `output` (Q,) or (Q, L); `start` is 0, `bos` true, `letters` and `name` may be left
            out.

    Raises:
        ValueError: an unknown entry, tables of the wrong shape or with something else than integers in them.

    Example:
        >>> from seqmix.tasks.automata import from_table
        >>> flip_flop = from_table({"step": [[0, 0, 1], [1, 0, 1]], "output": [0, 1], "bos": False})
        >>> flip_flop.answers([2, 0, 1])
        [1, 1, 0]
    """
    if not isinstance(table, Mapping):
        raise ValueError(f"automaton: table must be a mapping with step and output, got {type(table).__name__}")
    for key in table:
        if key not in _KEYS:
            raise unknown_name("entry of an automaton:", key, _KEYS)
    for key in ("step", "output"):
        if key not in table:
            raise ValueError(f"automaton: table must have {key}, got {', '.join(map(str, table)) or 'nothing'}")
    step, bos, start = _integers("step", table["step"]), table.get("bos", True), table.get("start", 0)
    if step.ndim != 2 or not step.size:
        raise ValueError(f"automaton: step must be a table (states, letters), got shape {step.shape}")
    letters = table.get("letters", step.shape[1])
    count = len(letters) if isinstance(letters, Sequence) and not isinstance(letters, str) else letters
    if count != step.shape[1]:
        raise ValueError(f"automaton: letters must be {step.shape[1]} names or that number, got {letters!r}")
    if not isinstance(bos, bool):
        raise ValueError(f"automaton: bos must be true or false, got {bos!r}")
    if not is_whole(start, 0, len(step) - 1):
        raise ValueError(f"automaton: start must be a state in [0, {len(step)}), got {start!r}")
    if step.min() < -1 or step.max() >= len(step):
        raise ValueError(f"automaton: step must have states in [0, {len(step)}) and -1, got {step.tolist()!s:.80}")
    output = _integers("output", table["output"])
    if output.shape not in ((len(step),), step.shape):
        raise ValueError(f"automaton: output must have shape ({len(step)},) or {step.shape}, got {output.shape}")
    return moore(str(table.get("name", "a table")), start, step, output, bos)


def read_table(path: str | os.PathLike[str]) -> Automaton:
    """The automaton in a YAML file; named by the file where it does not say its name. Errors as `from_table`."""
    file = Path(path)
    content = parse_yaml(read_text(file))
    return from_table({"name": file.stem, **content} if isinstance(content, dict) else content)


def moore(name: str, start: int, step: Table, output: Table, bos: bool) -> Automaton:
    """An automaton whose answers are those of states, output (Q,), or of steps, (Q, L); with a BOS in front or not."""
    states, letters = step.shape
    told = np.where(step >= 0, output[step] if output.ndim == 1 else output, IGNORE)
    vocabulary = max(letters, int(told.max(initial=0)) + 1) + bos
    steps = np.full((states + bos, vocabulary), -1, dtype=np.int64)
    answers = np.full_like(steps, IGNORE)
    steps[:states, :letters], answers[:states, :letters] = step, told
    if bos:
        steps[states, vocabulary - 1] = start
    return Automaton(name, states if bos else start, steps, answers, vocabulary - 1 if bos else None)


def _integers(name: str, value: Any) -> Table:
    """Rows of integers as an array, null as `IGNORE`."""
    rows = value.tolist() if isinstance(value, np.ndarray) else value

    def plain(item: Any) -> Any:
        if isinstance(item, Sequence) and not isinstance(item, str):
            return [plain(each) for each in item]
        if item is None and name == "output":
            return IGNORE
        if isinstance(item, bool) or not isinstance(item, int):
            raise ValueError(f"automaton: {name} must hold integers, got {item!r}")
        return item

    try:
        return np.array(plain(rows), dtype=np.int64)
    except (ValueError, OverflowError) as error:
        if "must hold" in str(error):
            raise
        raise ValueError(f"automaton: {name} must have rows of one length, got {value!r}") from None
