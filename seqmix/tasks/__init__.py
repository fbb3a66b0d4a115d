"""Tasks: data modules whose examples are pure functions of (seed, split, number). Nothing here knows a mixer.

Importing this needs torch and numpy only; building a task needs Lightning (`pip install 'seqmix[train]'`).
"""

from seqmix.tasks.automata import Automaton
from seqmix.tasks.groups import Group, group
from seqmix.tasks.registry import TaskEntry, create_task, get_task, list_tasks, register_task
from seqmix.tasks.word_problem import WordProblemExamples

__all__ = [
    "Automaton",
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
register_task(
    "single-parity",
    "seqmix.tasks.state_tracking:SingleParity",
    description="Is the number of ones odd, asked once at the end.",
    source="2411.12537",
)
register_task(
    "even-pairs",
    "seqmix.tasks.state_tracking:EvenPairs",
    description="Do the first and the last symbol agree.",
    source="2207.02098",
)
register_task(
    "cycle-navigation",
    "seqmix.tasks.state_tracking:CycleNavigation",
    description="Where a walk on a cycle of five ends.",
    source="2207.02098",
)
register_task(
    "modular-arithmetic",
    "seqmix.tasks.state_tracking:ModularArithmetic",
    description="Value modulo 5 of an expression with + - * and no brackets.",
    source="2207.02098",
)
register_task(
    "bracket-arithmetic",
    "seqmix.tasks.state_tracking:BracketArithmetic",
    description="Value modulo 5 of an expression with brackets, with or without multiplication.",
    source="2207.02098",
)
register_task(
    "string-copy",
    "seqmix.tasks.copying:StringCopy",
    description="Copy a string, teacher-forced and free-running; with repeated n-grams if asked.",
    source="2402.01032",
)
register_task(
    "ngram-lookup",
    "seqmix.tasks.copying:NgramLookup",
    description="Find an n-gram, given before or after a string, and continue it.",
    source="2402.01032",
)
register_task(
    "selective-copy",
    "seqmix.tasks.copying:SelectiveCopy",
    description="Remember data tokens among blanks, at random or fixed places, and say them in order.",
    source="2312.00752",
)
register_task(
    "induction-heads",
    "seqmix.tasks.remembering:InductionHeads",
    description="What followed the trigger token when it was seen.",
    source="2312.00752",
)
register_task(
    "compression",
    "seqmix.tasks.remembering:Compression",
    description="Say every token again from the last vector alone (MAD).",
    source="2403.17844",
)
register_task(
    "mqar",
    "seqmix.tasks.recall:MQAR",
    description="Multi-query associative recall: pairs, then keys whose values are asked for.",
    source="2312.04927",
)
register_task(
    "in-context-recall",
    "seqmix.tasks.recall:InContextRecall",
    description="MAD: values of keys that were seen before in the sequence.",
    source="2403.17844",
)
register_task(
    "noisy-recall",
    "seqmix.tasks.recall:NoisyRecall",
    description="MAD: in-context recall with pairs of noise in between.",
    source="2403.17844",
)
register_task(
    "fuzzy-recall",
    "seqmix.tasks.recall:FuzzyRecall",
    description="MAD: in-context recall where keys and values are runs of tokens.",
    source="2403.17844",
)
register_task(
    "memorization",
    "seqmix.tasks.recall:Memorization",
    description="MAD: values of keys by a fixed map that only the weights can hold.",
    source="2403.17844",
)
register_task(
    "listops",
    "seqmix.tasks.long_sequences:ListOps",
    description="Nested lists of MIN, MAX, MED and SM: ten classes, 500 to 2,000 tokens.",
    source="1804.06028, 2011.04006",
)
register_task(
    "pathfinder",
    "seqmix.tasks.long_sequences:Pathfinder",
    description="Are two marked ends ends of the same dashed curve? Pixel by pixel, 1,024 tokens.",
    source="1805.08315, 2011.04006",
)
register_task(
    "digits",
    "seqmix.tasks.long_sequences:Digits",
    description="Handwritten digits of 8 x 8 pixels, one pixel after the other.",
    source="scikit-learn",
)
register_task(
    "language-modeling",
    "seqmix.tasks.language_modeling:LanguageModeling",
    description="Real text in bits per byte: Python's reference, files, or a set on the hub; bytes or any tokenizer.",
)
