"""Averages of weights: windows by hand, states that continue, weighted means of saved ones."""

import copy
import pickle

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from seqmix.optim import LatestAverage, average_state_dicts


class Point(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x = torch.nn.Parameter(torch.zeros(3))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def move(self, value: float) -> "Point":
        torch.nn.init.constant_(self.x, value)
        self.count += 1
        return self


def means(size: int, values: list[float]) -> list[float]:
    point, found = Point(), []
    average = LatestAverage(point, size)
    for value in values:
        average.update_parameters(point.move(value))
        assert average.module.count == point.count
        found.append(average.module.x[0].item())
    return found


def test_windows() -> None:
    values = [1.0, 4.0, 2.0, 8.0, 16.0]
    assert means(1, values) == values
    assert means(5, values) == pytest.approx([1, 2.5, 7 / 3, 3.75, 6.2])
    assert means(100, values) == means(5, values)
    assert means(2, values) == [1, 2.5, 3, 5, 12]


def test_a_window_forgets_and_does_not_drift() -> None:
    values = [1e8, *[0.1] * 3]
    assert means(3, values)[-1] == pytest.approx(0.1, rel=1e-6)


def test_later_changes_of_the_model_do_not_reach_snapshots() -> None:
    point = Point()
    average = LatestAverage(point, 2)
    average.update_parameters(point.move(1.0))
    point.move(100.0)
    average.update_parameters(point.move(3.0))
    assert average.module.x.tolist() == [2.0] * 3


def test_snapshots_move_with_the_average() -> None:
    point = Point()
    average = LatestAverage(point, 2)
    average.update_parameters(point.move(1 / 3))
    average.to(torch.float64)
    assert average.queue[0][0].dtype == torch.float64
    average.update_parameters(point.move(1.0))
    assert average.module.x.tolist() == pytest.approx([2 / 3] * 3)


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_state_continues(after: int) -> None:
    values = [1.0, 4.0, 2.0, 8.0, 16.0]
    point = Point()
    average = LatestAverage(point, 3)
    for value in values[:after]:
        average.update_parameters(point.move(value))
    state = pickle.loads(pickle.dumps(average.state_dict()))
    resumed = LatestAverage(Point(), 3)
    resumed.load_state_dict(copy.deepcopy(state))
    assert [snapshot[0][0].item() for snapshot in resumed.queue] == values[:after][-3:]
    for value in values[after:]:
        resumed.update_parameters(point.move(value))
    assert resumed.module.x[0].item() == means(3, values)[-1]
    assert resumed.n_averaged == 5
    # A smaller window keeps the newest.
    smaller = LatestAverage(Point(), 1)
    smaller.load_state_dict(state)
    assert [snapshot[0][0].item() for snapshot in smaller.queue] == values[after - 1 : after]


def test_exponential_average_of_constant_increments() -> None:
    # theta_t = t: the average lags behind by b / (1 - b) (1 - b^(t - 1)) from a start at theta_1.
    decay, point = 0.9, Point()
    average = AveragedModel(point, multi_avg_fn=get_ema_multi_avg_fn(decay))
    for step in range(1, 51):
        average.update_parameters(point.move(float(step)))
    assert average.module.x[0].item() == pytest.approx(50 - decay / (1 - decay) * (1 - decay**49), rel=1e-5)


def test_mean_of_states() -> None:
    states = [{"x": torch.full((2,), value), "n": torch.tensor(index)} for index, value in enumerate((1.0, 2.0, 6.0))]
    assert average_state_dicts(states)["x"].tolist() == [3.0, 3.0]
    assert average_state_dicts(states)["n"] == 2
    assert average_state_dicts(states, [0, 1, 3])["x"].tolist() == [5.0, 5.0]
    spins = [{"z": torch.full((2,), value)} for value in (1j, 3 + 1j)]
    assert average_state_dicts(spins)["z"].tolist() == [1.5 + 1j] * 2
    # Many equal weights stay what they are, in any type.
    same = {"x": torch.tensor([0.1, 1e-30], dtype=torch.bfloat16)}
    assert torch.equal(average_state_dicts([same] * 7)["x"], same["x"])


@pytest.mark.parametrize(
    ("states", "weights", "message"),
    [
        ([], None, "at least one"),
        ([{"x": torch.ones(1)}, {"y": torch.ones(1)}], None, "differ in x, y"),
        ([{"x": torch.ones(1)}, {"x": torch.ones(2)}], None, "state 0 and the last one differ in x"),
        ([{"x": torch.ones(1)}], [0.0], "not all 0"),
        ([{"x": torch.ones(1)}], [1.0, 1.0], "weights must be 1 numbers"),
    ],
)
def test_mistakes(states, weights, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        average_state_dicts(states, weights)


def test_bad_size() -> None:
    with pytest.raises(ValueError, match="size must be a positive integer"):
        LatestAverage(Point(), 0)
