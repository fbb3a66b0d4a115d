"""Tasks: data modules whose examples are pure functions of (seed, split, number). Nothing here knows a mixer.

The classes that are registered in this folder are attributes, as all that is imported here; each loads its module when
first used. Building a task needs Lightning (`pip install 'seqmix[train]'`).
"""

from typing import TYPE_CHECKING

from seqmix._lazy import lazy

if TYPE_CHECKING:
    from seqmix.tasks.automata import Automaton
    from seqmix.tasks.groups import Group, group
    from seqmix.tasks.registry import TaskEntry, create_task, get_task, list_tasks, register_task
    from seqmix.tasks.word_problem import WordProblemExamples

__getattr__, __dir__ = lazy(__name__)
