"""Horizon brackets as JSON, tied to the weights and the task that they are of."""

from typing import Any

from seqmix._checks import is_whole
from seqmix.atlas.brackets import Bracket
from seqmix.atlas.brackets_check import verify_bracket
from seqmix.inspect.certificates.network import weights_fingerprint
from seqmix.models import SequenceModel
from seqmix.tasks.automata import Automaton

__all__ = ["FORMAT", "bracket_content", "check_content", "headline"]

FORMAT, VERSION = "seqmix-horizon", 1
_EVERY = "every length"
_METHODS = ("all words", "boxes", "counts", "drift")


def bracket_content(bracket: Bracket, model: SequenceModel, automaton: Automaton) -> dict[str, Any]:
    """A bracket as JSON has it."""
    return {
        "format": FORMAT,
        "version": VERSION,
        **bracket._asdict(),
        "safe": _EVERY if bracket.safe == float("inf") else bracket.safe,
        "task": automaton.name,
        "task_fingerprint": automaton.fingerprint(),
        "weights_fingerprint": weights_fingerprint(model),
    }


def check_content(content: Any, model: SequenceModel, automaton: Automaton) -> Bracket:
    """The bracket of a file that holds for a model and a task; `ValueError` with what is wrong otherwise."""
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != VERSION:
        raise ValueError(
            f"bracket: expected JSON with format {FORMAT!r} and version {VERSION}, got {str(content)[:60]!r}"
        )
    for name, expected in (("weights", weights_fingerprint(model)), ("task", automaton.fingerprint())):
        if content.get(f"{name}_fingerprint") != expected:
            raise ValueError(f"bracket: it is of other {name}")
    try:
        bracket = Bracket(**{name: content[name] for name in Bracket._fields})
    except KeyError as error:
        raise ValueError(f"bracket: it has no {error}") from None
    if bracket.safe == _EVERY:
        bracket = bracket._replace(safe=float("inf"))
    safe = bracket.safe == float("inf") or is_whole(bracket.safe, 0)
    fails = bracket.fails is None or is_whole(bracket.fails, 0)
    if not (safe and fails and bracket.method in _METHODS):
        raise ValueError(f"bracket: no length or method: {bracket.safe!r}, {bracket.fails!r}, {bracket.method!r}")
    try:
        verify_bracket(bracket, model, automaton)
    except (IndexError, KeyError, NotImplementedError, RuntimeError, StopIteration, TypeError, ValueError) as error:
        if str(error).startswith("bracket: "):
            raise
        raise ValueError(f"bracket: it is malformed: {error}") from error
    return bracket


def headline(bracket: Bracket) -> str:
    """What is known, in a line."""
    if bracket.safe == float("inf"):
        return f"your network: proved for every length, by {bracket.method}"
    fails = "no wrong word found" if bracket.fails is None else f"a word of {bracket.fails:,} letters is wrong"
    by = "tried" if bracket.method == "all words" else f"proved by {bracket.method}"
    return f"your network: all words up to {bracket.safe:,} letters are right, {by}; {fails}"
