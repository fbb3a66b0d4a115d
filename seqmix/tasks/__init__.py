"""Tasks: data modules whose examples are pure functions of (seed, split, number). Nothing here knows a mixer.

Importing this needs torch and numpy only; building a task needs Lightning (`pip install 'seqmix[train]'`).
"""

from seqmix.tasks.groups import Group, group
from seqmix.tasks.registry import TaskEntry, create_task, get_task, list_tasks, register_task
from seqmix.tasks.word_problem import WordProblemExamples

__all__ = [
    "Group",
    "TaskEntry",
    "WordProblemExamples",
    "create_task",
    "get_task",
    "group",
    "list_tasks",
    "register_task",
]

register_task(
    "word-problem",
    "seqmix.tasks.state_tracking:WordProblem",
    description="Running product in a finite group (Z60, S5, A5, D4, A4xZ5, ...).",
    source="2404.08819",
)
register_task(
    "parity",
    "seqmix.tasks.state_tracking:Parity",
    description="Is the number of ones so far odd: the word problem of Z2.",
    source="2404.08819",
)
