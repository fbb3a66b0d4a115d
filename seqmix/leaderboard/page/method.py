"""How each number of a page is computed, in words, with the constants of the statistics."""

from seqmix.leaderboard.page.views import Meta
from seqmix.leaderboard.summary.summaries import FAR, LEARNED, MULTIPLES, NEAR_BEST, SOLVED

__all__ = ["BOARD", "TASK"]

_POINTS = f"{100 * NEAR_BEST:g}"


def _items(*pairs: tuple[str, str]) -> list[Meta]:
    return [Meta(title, text) for title, text in pairs]


_CHOICE = (
    "Learning rate",
    "Chosen on validation data at the training length: the rate with the best median over the seeds that all rates "
    "have in common; among equals the smallest validation loss, then the lowest rate. Test data plays no part in it, "
    "and every rate of the grid is on the page of its cell.",
)
_BROKEN = (
    "Diverged and failed runs",
    "They stay in and count, with accuracy 0 or infinite bits per byte. Of a run that was tried again the last attempt "
    "counts.",
)
_SOLVED = (
    "Solved",
    f"Seeds at the chosen rate with a test result of {SOLVED:g} at the training length, of all seeds there. The "
    "interval is Wilson's, 95 %: three of three still allow a true share of .44.",
)

BOARD = _items(
    (
        "The number in a cell",
        "Median over the seeds, test data, at the training length, by the measure of the task. Text is in bits per "
        "byte, where less is better.",
    ),
    _CHOICE,
    _SOLVED,
    (
        "Median over rates",
        "Median, over the grid of learning rates, of the median test result at each rate: what a rate picked blindly "
        "gives.",
    ),
    (
        "Mean score",
        "Each cell's mean over its seeds, normalised so that guessing is 0 and all right is 1: (accuracy − chance) / "
        "(1 − chance), not below 0; text counts 1 − bits / 8. The score is the mean over the tasks. Its 95 % interval "
        "is a bootstrap over the seeds of every task, 10,000 draws with a fixed seed; a cell of a single seed enters "
        "with everything from 0 to 1.",
    ),
    (
        "Rank",
        "By the mean score. The best entry and those whose intervals overlap with its own share rank 1, marked =. The "
        "first whose interval lies below is the best of the next group, which begins with its place (1=, 1=, 3), and "
        "so on. An entry that lacks a task has a mean over those that it has, and no rank.",
    ),
    _BROKEN,
)
TASK = _items(
    ("Results at each length", "Median over the seeds at the chosen rate, test data, by the measure of the task."),
    _CHOICE,
    _SOLVED,
    ("Longest", f"The longest tested length with a median of {FAR:g} or more, at it and at every shorter one."),
    (
        "Length score",
        f"Mean normalised result over {', '.join(map(str, MULTIPLES))} times the training length, as far as they were "
        "tested.",
    ),
    ("Over rates", "Median, over the grid, of the median test result at each rate."),
    (
        "Robust",
        f"Share of the grid whose validation is within {_POINTS} points of the best rate's ({_POINTS} % of its bits on "
        "text).",
    ),
    (
        "Rank",
        "By the normalised mean over the seeds. Entries share the rank (=) of the best of their group as long as their "
        "95 % intervals (bootstrap of that mean) overlap with its own, and never one that no seed solved with one that "
        "some did; a single seed has no interval and is told apart from nobody. What learned nothing, a normalised "
        f"mean below {LEARNED:g}, has a dash: no rank, no share solved, no robustness.",
    ),
    _BROKEN,
)
