"""What is said of the parameters of a checkpoint when processes share them."""

from typing import Any

import pytest
import torch
from torch import nn

from seqmix.tasks import Parity
from seqmix.training.strategies import SequenceParallel, by_name


def test_states_of_optimizers_belong_to_names_by_their_place_in_groups() -> None:
    """Two squares of one shape: counted in the module's order, each would get the moments of the other."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    names = {id(p): name for name, p in model.named_parameters()}
    groups = [{"params": [model[1].weight, model[0].weight]}, {"params": [model[1].bias, model[0].bias], "lr": 0.5}]
    optimizer = torch.optim.Adam(groups, lr=0.1)
    for number, p in enumerate(model.parameters()):
        p.grad = torch.full_like(p, float(number))
    optimizer.step()
    found = by_name(optimizer.state_dict(), optimizer, names)
    assert [group["params"] for group in found["param_groups"]] == [["1.weight", "0.weight"], ["1.bias", "0.bias"]]
    assert found["param_groups"][1]["lr"] == 0.5
    for name, p in model.named_parameters():
        assert torch.equal(found["state"][name]["exp_avg"], optimizer.state[p]["exp_avg"])


def test_sequences_are_cut_over_a_divisor_of_the_processes() -> None:
    strategy: Any = SequenceParallel(sequence_ranks=3)
    strategy.parallel_devices = [torch.device("cpu")] * 4
    with pytest.raises(ValueError, match=r"sequence_ranks must divide the 4 processes of .* got 3"):
        strategy.setup_environment()
    with pytest.raises(ValueError, match="sequence_ranks must be a positive integer"):
        SequenceParallel(sequence_ranks=0)
    with pytest.raises(ValueError, match="form: expected one of two-pass, pipeline, got 'ring'"):
        SequenceParallel(form="ring")
    with pytest.raises(ValueError, match="sequence_parallel has no predict"):
        strategy.check_task(Parity(), "predict")
