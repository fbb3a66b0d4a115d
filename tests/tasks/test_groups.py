"""Groups: the axioms, the order of composition, names."""

import numpy as np
import pytest

from seqmix.tasks import group

ORDERS = {"Z1": 1, "Z2": 2, "Z60": 60, "S1": 1, "S3": 6, "S5": 120, "A3": 3, "A4": 12, "A5": 60, "D1": 2, "D2": 4}
ORDERS |= {"D4": 8, "D5": 10, "Q8": 8, "A4xZ5": 60, "Z2xZ2xZ2": 8, "Q8xS3": 48}


@pytest.mark.parametrize("name", ORDERS)
def test_axioms(name: str) -> None:
    g = group(name)
    n, table = g.order, g.table
    assert n == ORDERS[name] and table.shape == (n, n) and table.dtype == np.int64
    everything = np.arange(n)
    assert (table[0] == everything).all() and (table[:, 0] == everything).all()
    assert (np.sort(table, 0) == everything[:, None]).all() and (np.sort(table, 1) == everything).all()
    a, b, c = np.random.default_rng(0).integers(n, size=(3, 2000))
    assert (table[table[a, b], c] == table[a, table[b, c]]).all()


def permutation_matrices(permutations: np.ndarray) -> np.ndarray:
    # P sends unit vector i to unit vector p[i]: column i has its one in row p[i]
    return np.eye(permutations.shape[1])[permutations].transpose(0, 2, 1)


@pytest.mark.parametrize("name", ["S3", "S4", "A5", "D5", "Z6"])
def test_composition_is_acc_then_x_for_permutation_matrices(name: str) -> None:
    g = group(name)
    assert g.permutations is not None
    matrices = permutation_matrices(g.permutations)
    word = np.random.default_rng(1).integers(g.order, size=(1, 30))
    state = np.eye(matrices.shape[1])
    for x, y in zip(word[0], g.running_product(word)[0], strict=True):
        state = matrices[x] @ state
        assert (state == matrices[y]).all()


def test_known_products() -> None:
    s3 = group("S3")
    assert s3.permutations is not None
    elements = [tuple(p) for p in s3.permutations.tolist()]
    swap, turn = elements.index((1, 0, 2)), elements.index((1, 2, 0))
    # first swap 0 and 1, then turn 0 -> 1 -> 2 -> 0: 0 -> 1 -> 2, 1 -> 0 -> 1, 2 -> 2 -> 0
    assert elements[s3.table[swap, turn]] == (2, 1, 0)
    quaternions = group("Q8").table
    assert quaternions[1, 1] == quaternions[2, 2] == quaternions[3, 3] == 4  # i i = j j = k k = -1
    assert quaternions[2, 1] == 3 and quaternions[1, 2] == 7  # i after j is i j = k, j after i is -k


def test_structure_tells_groups_of_equal_order_apart() -> None:
    def orders(name: str) -> list[int]:
        table, found = group(name).table, []
        for element in range(len(table)):
            power, order = element, 1
            while power:
                power, order = table[power, element], order + 1
            found.append(order)
        return sorted(found)

    assert orders("Q8") == [1, 2, 4, 4, 4, 4, 4, 4] and orders("D4") == [1, 2, 2, 2, 2, 2, 4, 4]
    assert orders("Z2xZ2") == orders("D2") == [1, 2, 2, 2]
    assert sorted(set(orders("A5"))) == [1, 2, 3, 5] and max(orders("Z60")) == 60 and max(orders("A4xZ5")) == 15


@pytest.mark.parametrize("name", ["Z60", "S5", "A5", "Q8", "A4xZ5", "D4"])
def test_generators_generate_and_are_few(name: str) -> None:
    g = group(name)
    assert len(g.generators()) <= 2
    assert g.generated_by(g.generators()).size == g.order
    assert g.generated_by([0]).tolist() == [0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a5", "unknown group 'a5'; did you mean .*'A5'"),
        ("A5x", "unknown group"),
        ("B3", "unknown group 'B3'"),
        ("A55", "A55 has more than 2,048 elements, which is the limit; there are Zn .cyclic., Sn .*A4xZ5"),
        ("Z0", "unknown group"),
        ("S7", "more than 2,048 elements"),
        ("A9999", "more than"),
        ("Z50xZ50", "more than"),
        ("", "name must be a string"),
        (5, "name must be a string, got 5|such as 'A5'"),
    ],
)
def test_bad_names(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group(name)


def test_tables_are_shared_and_read_only() -> None:
    assert group("A5") is group("A5")
    with pytest.raises(ValueError, match="read-only"):
        group("A5").table[0, 0] = 1
