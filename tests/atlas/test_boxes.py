"""Boxes prove an LSTM with written weights at every length, and no network that errs."""

import json

import pytest
import torch

from seqmix import SequenceModel
from seqmix.atlas import Bracket, check, construct, horizon, verify_bracket
from seqmix.atlas.boxes import boxes_of
from seqmix.atlas.bracket_files import bracket_content, check_content
from seqmix.tasks.automata import named_automaton


@pytest.fixture(scope="module")
def proved() -> tuple[Bracket, SequenceModel]:
    made = construct("lstm", "Z2")
    return horizon(made.model, made.automaton, 20), made.model


def test_written_units_are_right_at_every_length(proved: tuple[Bracket, SequenceModel]) -> None:
    bracket, model = proved
    automaton = named_automaton("Z2")
    assert (bracket.safe, bracket.method, bracket.word) == (float("inf"), "boxes", None)
    assert verify_bracket(bracket, model, automaton) == 12
    content = json.loads(json.dumps(bracket_content(bracket, model, automaton)))
    assert check_content(content, model, automaton).safe == float("inf")


@pytest.mark.parametrize("damage", ["narrow", "missing", "swapped", "safe"])
def test_forged_boxes_are_refused(proved: tuple[Bracket, SequenceModel], damage: str) -> None:
    bracket, model = proved
    automaton = named_automaton("Z2")
    assert bracket.boxes is not None
    keys, low, high = (list(each) for each in bracket.boxes)
    if damage == "narrow":
        low[-1] = [x + 1e-3 for x in low[-1]]
    elif damage == "missing":
        keys, low, high = keys[:-1], low[:-1], high[:-1]
    elif damage == "swapped":
        keys[1], keys[2] = keys[2], keys[1]
    forged = bracket._replace(boxes=(keys, low, high)) if damage != "safe" else bracket._replace(boxes=None)
    with pytest.raises(ValueError, match="bracket: "):
        verify_bracket(forged, model, automaton)


def test_other_weights_other_tasks_and_nonsense_are_refused(proved: tuple[Bracket, SequenceModel]) -> None:
    bracket, model = proved
    automaton = named_automaton("Z2")
    content = bracket_content(bracket, model, automaton)
    other = construct("lstm", "Z2").model
    with torch.no_grad():
        other.head.weight[:2] = other.head.weight[:2].flip(0)
    with pytest.raises(ValueError, match="of other weights"):
        check_content(content, other, automaton)
    with pytest.raises(ValueError, match="of other task"):
        check_content(content, model, named_automaton("Z3"))
    for wrong in ({"safe": -1}, {"safe": True}, {"method": "luck"}, {"boxes": 3}, {"boxes": [[[0]], [], []]}):
        with pytest.raises(ValueError, match="bracket: "):
            check_content(content | wrong, model, automaton)
    with pytest.raises(ValueError, match="bracket: expected JSON"):
        check_content([1], model, automaton)


@pytest.mark.parametrize("seed", range(4))
def test_a_network_that_errs_has_no_boxes(seed: int) -> None:
    torch.manual_seed(seed)
    automaton = named_automaton("Z2")
    model = SequenceModel({"name": "lstm", "d_state": 4}, automaton.vocab_size, 8, mlp_ratio=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    assert boxes_of(model, automaton) is None and check(model, automaton, longest=8, words=0).wrong is not None
    # One answer changed, or one weight: what was proved is not any more.
    made = construct("lstm", "Z2")
    with torch.no_grad():
        weight = made.model.mixers[0].weight_hh
        row = int(torch.randint(weight.shape[0] // 2, weight.shape[0] // 4 * 3, ()))
        weight[row] = -weight[row]
    assert boxes_of(made.model, made.automaton) is None or check(made.model, made.automaton, longest=8).wrong is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip-2", "S3", "maps-3", "first"])
def test_larger_ones(name: str) -> None:
    made = construct("lstm", name)
    bracket = horizon(made.model, made.automaton, 20)
    assert bracket.method == "boxes"
    verify_bracket(bracket, made.model, made.automaton)
