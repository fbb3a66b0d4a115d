"""Finite automata: as tasks, by name, from tables, at random, and what can be said of their algebra."""

from seqmix.tasks.automata.automaton import IGNORE, Automaton
from seqmix.tasks.automata.describe import Description, describe
from seqmix.tasks.automata.named import list_automata, named_automaton
from seqmix.tasks.automata.tables import from_table, read_table

__all__ = [
    "IGNORE",
    "Automaton",
    "Description",
    "describe",
    "from_table",
    "list_automata",
    "named_automaton",
    "read_table",
]
