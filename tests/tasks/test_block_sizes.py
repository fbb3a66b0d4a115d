"""Block sizes that groups need: known permutation degrees, and the representations themselves."""

import numpy as np
import pytest

from seqmix.tasks.block_sizes import smallest_block, subgroups
from seqmix.tasks.groups import group

# softmax and signed gates with a linear read-out, and with any read-out
DEGREES = {
    "Z2": (2, 1, 2, 1),
    "Z3": (3, 3, 3, 3),
    "Z5": (5, 5, 5, 5),
    "S3": (3, 3, 3, 3),
    "D4": (4, 2, 4, 2),
    "Q8": (8, 4, 4, 2),
    "A4": (4, 3, 4, 3),
    "S4": (4, 3, 4, 3),
    "D5": (5, 5, 5, 5),
    "A5": (5, 5, 5, 5),
    "Z6": (3, 3, 3, 3),
    "Z2xZ2": (2, 1, 2, 1),
    "Z60": (5, 5, 5, 5),
    "Z1": (1, 1, 1, 1),
}


@pytest.mark.parametrize("name", DEGREES)
def test_known_degrees(name: str) -> None:
    linear = [smallest_block(name, signed=signed) for signed in (False, True)]
    free = [smallest_block(name, signed=signed, read_out="any") for signed in (False, True)]
    assert (*linear, *free) == DEGREES[name]


@pytest.mark.parametrize(("name", "count"), [("Z60", 12), ("Q8", 6), ("D4", 10), ("S4", 30), ("A5", 59), ("S5", 156)])
def test_number_of_subgroups(name: str, count: int) -> None:
    g = group(name)
    found = subgroups(g)
    assert len(found) == len(set(found)) == count
    assert all(g.order % len(each) == 0 for each in found)
    assert all(g.generated_by(sorted(each)).tolist() == sorted(each) for each in found[:: max(1, count // 10)])


def permutations_on(g, stabiliser: frozenset[int]) -> np.ndarray:
    """The permutations (order, points) of the cosets S a by right multiplication."""
    cosets = sorted({tuple(sorted(int(g.table[s, a]) for s in stabiliser)) for a in range(g.order)})
    index = {element: i for i, coset in enumerate(cosets) for element in coset}
    return np.array([[index[int(g.table[coset[0], x])] for coset in cosets] for x in range(g.order)])


@pytest.mark.parametrize("name", ["S3", "D4", "Q8", "A4", "S4", "A5"])
def test_actions_on_so_many_points_tell_all_elements_apart_and_on_fewer_do_not(name: str) -> None:
    g, m = group(name), smallest_block(name)

    def told_apart(points: int) -> bool:
        actions = [permutations_on(g, s) for s in subgroups(g) if g.order // len(s) <= points]
        return len(np.unique(np.concatenate(actions, axis=1), axis=0)) == g.order

    assert told_apart(m) and not told_apart(m - 1)


def test_q8_is_a_quotient_of_pairs_of_symmetries_of_a_square() -> None:
    # In D4, element 1 turns the square and 4 mirrors it; a pair is a state of two blocks of four.
    square, target = group("D4").table, group("Q8").table
    steps = {(1, 0): 1, (4, 1): 2}  # letters of the pair, and what they stand for: i and j
    answers, frontier = {(0, 0): 0}, [(0, 0)]
    while frontier:
        state = frontier.pop()
        for step, element in steps.items():
            reached = (int(square[state[0], step[0]]), int(square[state[1], step[1]]))
            answer = int(target[answers[state], element])
            if reached not in answers:
                frontier.append(reached)
            assert answers.setdefault(reached, answer) == answer
    assert len(answers) == 16 and len(set(answers.values())) == 8


def test_unknown_read_out() -> None:
    with pytest.raises(ValueError, match="read_out must be one of linear, any, got 'mlp'"):
        smallest_block("Z2", read_out="mlp")
