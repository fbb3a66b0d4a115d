"""Boxes of Mamba and PD-SSM: they hold what the layers do in float32, prove what is written, and nothing that errs."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from seqmix import SequenceModel
from seqmix.atlas import Bracket, check, construct, horizon, verify_bracket
from seqmix.atlas.box_scans import MambaBoxes, PDSSMBoxes
from seqmix.atlas.box_scans_check import CheckedMamba, CheckedPDSSM
from seqmix.atlas.boxes import boxable, boxes_of
from seqmix.atlas.boxes_check import check_boxes
from seqmix.tasks.automata import Automaton, from_table, named_automaton

SIGNED: dict[str, Any] = {"name": "mamba", "d_conv": 1, "eigenvalues": "signed"}
WRITTEN = [
    ({"name": "pd-ssm"}, "maps-3"),
    ({"name": "pd-ssm"}, "S3"),
    ({"name": "mamba", "d_conv": 1}, "registers-2"),
    (SIGNED, "Z2"),
    (SIGNED, "counter-2-reset"),
]


@pytest.mark.parametrize(("mixer", "name"), WRITTEN)
def test_written_weights_are_right_at_every_length(mixer: dict[str, Any], name: str) -> None:
    made = construct(mixer, name)
    bracket = horizon(made.model, made.automaton, 20)
    assert (bracket.safe, bracket.method, bracket.word) == (float("inf"), "boxes", None)
    verify_bracket(bracket, made.model, made.automaton)


def test_gathers_and_signs_add_nothing_to_a_box() -> None:
    made = construct("pd-ssm", "maps-3")
    found = boxes_of(made.model, made.automaton)
    assert found is not None and np.array_equal(found.low, found.high)
    # What the BOS wrote is mirrored for ever, as it is.
    made = construct(SIGNED, "Z2")
    found = boxes_of(made.model, made.automaton)
    assert found is not None
    sizes = np.abs(np.stack([found.low, found.high])[:, 1:])  # of all boxes but that of the BOS
    assert (np.sort(sizes, 0) == np.sort(sizes, 0)[:, :1]).all()


@torch.no_grad()
@pytest.mark.parametrize(("mixer", "name"), WRITTEN)
def test_long_words_stay_in_their_boxes(mixer: dict[str, Any], name: str) -> None:
    made = construct(mixer, name)
    found = boxes_of(made.model, made.automaton)
    assert found is not None
    boxes = {(q, x): place for place, (q, x) in enumerate(found.keys.tolist())}
    letters = [x for x in range(made.automaton.vocab_size) if x != made.automaton.bos]
    word = [made.automaton.bos, *np.random.default_rng(0).choice(letters, 300).tolist()]
    state, q = made.model.init_state(1), made.automaton.start
    for x in word:
        _, state = made.model.step(torch.tensor([x]), state)
        leaf = next(leaf for leaf in state.layers[0] if leaf.numel())
        got = (torch.cat([leaf.real, leaf.imag], -1) if leaf.is_complex() else leaf).flatten().double().numpy()
        place = boxes[q, x]
        assert ((found.low[place] <= got) & (got <= found.high[place])).all()
        q = int(made.automaton.step[q, x])


def scattered(seed: int, mixer: dict[str, Any]) -> SequenceModel:
    """Weights of all sizes: gates that are soft, that are hard, and parts that are zero."""
    torch.manual_seed(seed)
    model = SequenceModel(mixer, 5, 6, mlp_ratio=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
            parameter.mul_(10 ** torch.empty(parameter.shape[:1] + (1,) * (parameter.ndim - 1)).uniform_(-2, 1.5))
            parameter[torch.rand(parameter.shape[0]) < 0.2] = 0
    return model


SHAPES = [
    {"name": "mamba", "d_conv": 1, "d_state": 2},
    {**SIGNED, "d_state": 3},
    {"name": "pd-ssm", "d_state": 4, "n_transitions": 3},
]


def held(model: SequenceModel, seed: int) -> int:
    """How many steps of float32 from random states lie in the boxes of both; what is read lies in them, too."""
    block: Any = model.blocks[0]
    wide = copy.deepcopy(model).double()
    pd = type(block.mixer).__name__ == "PDSSM"
    layer: Any = (PDSSMBoxes if pd else MambaBoxes)(model)
    other: Any = (CheckedPDSSM if pd else CheckedMamba)(wide, torch.float32)
    draw, count = torch.Generator().manual_seed(seed), 0
    for token in range(5):
        h = torch.randn(4, layer.size, generator=draw) * 10 ** torch.empty(4, 1).uniform_(-3, 2, generator=draw)
        h[torch.rand(h.shape, generator=draw) < 0.3] = 0
        empty = block.mixer.init_state(4)
        state = type(empty)(
            *(
                torch.complex(*h.chunk(2, -1)) if leaf.is_complex() else h.view(leaf.shape) if leaf.numel() else leaf
                for leaf in empty
            )
        )
        e = model.embedding.weight[token].expand(4, -1)
        y, after = block.mixer.step(block.mixer_norm(e), state)
        leaf = next(leaf for leaf in after if leaf.numel())
        got = torch.cat([leaf.real, leaf.imag], -1) if leaf.is_complex() else leaf.flatten(1)
        start, got = h.double().numpy(), got.double().numpy()
        low, high = layer.step(token, start, start)
        if not np.isfinite(low).all() or np.abs(got).max() > 1e30:
            continue
        assert ((low <= got) & (got <= high)).all()
        for row in range(4):
            box = other.step(token, torch.from_numpy(np.stack([start[row]] * 2))).numpy()
            assert ((box[0] <= got[row]) & (got[row] <= box[1])).all()
            assert ((low[row] <= box[0]) & (box[1] <= high[row])).all(), "the checker knows less than the prover"
        said = layer.said(np.full(4, token), low, high)
        middle = sum((ends.low + ends.high) / 2 @ matrix.T for matrix, ends in said)
        room = sum((ends.high - ends.low) / 2 @ np.abs(matrix).T for matrix, ends in said)
        size = sum(ends.size @ np.abs(matrix).T for matrix, ends in said)
        assert (np.abs(y.double().numpy() - middle) <= room + 1e-5 * size + 1e-30).all()
        count += 1
    return count


@torch.no_grad()
@pytest.mark.parametrize("mixer", SHAPES, ids=["mamba", "signed", "pd-ssm"])
def test_boxes_hold_what_float32_does(mixer: dict[str, Any]) -> None:
    assert sum(held(scattered(seed, mixer), seed) for seed in range(40)) > 40


def random_automaton(seed: int) -> Automaton:
    draw = np.random.default_rng(seed)
    states, letters = int(draw.integers(2, 5)), int(draw.integers(2, 4))
    step = draw.integers(states, size=(states, letters))
    if seed % 2:  # letters that hold, set or, of two states, flip
        kind = draw.integers(3, size=letters)
        step = np.where(
            kind == 0, step[0], np.where(kind == 1, np.arange(states)[:, None], states - 1 - np.arange(states)[:, None])
        )
    return from_table({"step": step.tolist(), "output": draw.integers(states, size=states).tolist()})


def proved_wrongly(seed: int) -> tuple[int, list[str]]:
    """Networks that were proved, of written ones and of damaged ones; and what was proved and is wrong."""
    draw, proved, wrong = np.random.default_rng(seed), 0, []
    torch.manual_seed(seed)
    for mixer in ({"name": "pd-ssm"}, {"name": "mamba", "d_conv": 1}, SIGNED):
        try:
            made = construct(mixer, random_automaton(seed))
        except ValueError:
            continue
        for damage in range(4):
            model = copy.deepcopy(made.model)
            if damage:
                parameters = [p for p in model.parameters() if p.abs().max() > 0]
                parameter = parameters[draw.integers(len(parameters))]
                with torch.no_grad():
                    row = int(draw.integers(len(parameter)))
                    parameter[row] *= float(draw.choice([-1.0, 0.0, 0.1, 0.9, 0.999, 1.5]))
            found = boxes_of(model, made.automaton)
            right = check(model, made.automaton, longest=6, words=8, length=300).wrong is None
            proved += found is not None
            if found is None:
                continue
            if not right:
                wrong.append(f"{mixer}, {seed}, damage {damage}")
            check_boxes(*(each.tolist() for each in found), model, made.automaton)
            automaton = made.automaton
            output = automaton.output.copy()
            q, x = (int(each[0]) for each in np.nonzero(output >= 0))
            output[q, x] = (output[q, x] + 1) % automaton.vocab_size
            changed = Automaton("one answer changed", automaton.start, automaton.step, output, automaton.bos)
            if boxes_of(model, changed) is not None:
                wrong.append(f"{mixer}, {seed}, another answer")
    return proved, wrong


@pytest.mark.parametrize("first", [0, 8])
def test_none_is_proved_wrongly(first: int) -> None:
    told = [proved_wrongly(seed) for seed in range(first, first + 8)]
    assert sum(proved for proved, _ in told) > 8 and not [line for _, wrong in told for line in wrong]


@pytest.mark.slow
def test_none_of_many_is_proved_wrongly() -> None:
    told = [proved_wrongly(seed) for seed in range(16, 80)]
    assert sum(proved for proved, _ in told) > 40 and not [line for _, wrong in told for line in wrong]


@pytest.mark.parametrize("damage", ["narrow", "missing", "wide", "infinite"])
def test_forged_boxes_are_refused(damage: str) -> None:
    made = construct(SIGNED, "Z2")
    found = boxes_of(made.model, made.automaton)
    assert found is not None
    keys, low, high = (each.tolist() for each in found)
    if damage == "narrow":
        low[-1] = [x + 1e-6 for x in low[-1]]
    elif damage == "missing":
        keys, low, high = keys[:-1], low[:-1], high[:-1]
    elif damage == "wide":
        low, high = ([[x + sign * 9 for x in row] for row in rows] for sign, rows in ((-1, low), (1, high)))
    else:
        low[-1] = [float("-inf")] * len(low[-1])
    bracket = Bracket(float("inf"), "boxes", None, None, (keys, low, high))
    with pytest.raises(ValueError, match="bracket: "):
        verify_bracket(bracket, made.model, made.automaton)


def test_other_models_have_none() -> None:
    automaton = named_automaton("Z2")
    for mixer, options in (
        ({"name": "mamba"}, {}),
        ({"name": "gru"}, {}),
        ({"name": "lstm"}, {"norm": "batch"}),
        ({"name": "pd-ssm"}, {"final_norm": False}),
        ({"name": "pd-ssm"}, {"n_layers": 2}),
    ):
        model = SequenceModel(mixer, automaton.vocab_size, 8, **{"mlp_ratio": 0, **options})
        assert not boxable(model)
    with pytest.raises(NotImplementedError, match="boxes: one layer of lstm, pd-ssm or mamba"):
        boxes_of(model, automaton)
    hooked = construct(SIGNED, "Z2").model
    assert boxable(hooked)
    hooked.blocks[0].register_forward_hook(lambda *_: None)
    assert not boxable(hooked)
