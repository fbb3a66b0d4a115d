"""New weights where transitions forget, and the end of training where all is learned."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from seqmix.training.callbacks import (
    GateEntropyPenalty,
    LengthCurriculum,
    StepProgress,
    StopWhenSolved,
    VolumeRestart,
)
from seqmix.training.callbacks.volume_restart import largest_volume
from tests.training.test_callbacks import AlwaysRight, learner, task, trainer


def set_gates(model, m: int, shift: float) -> None:
    """Every block of every mixer rotates its entries (shift of logits large), or averages them (shift zero)."""
    mixer = model.model.blocks[0].mixer
    with torch.no_grad():
        mixer.proj_gates.weight.zero_()
        bias = torch.zeros(mixer.n_blocks, m, m + 1)
        bias[:, torch.arange(m), (torch.arange(m) + 1) % m] = shift
        mixer.proj_gates.bias.copy_(bias.flatten())


def test_volume_of_known_transitions() -> None:
    model = learner({"name": "bd-lru", "block_size": 4, "d_state": 8})
    tokens = torch.zeros(2, 5, dtype=torch.long)
    set_gates(model, 4, 200.0)
    assert largest_volume(model, tokens).item() == pytest.approx(1.0)
    set_gates(model, 4, 0.0)
    assert largest_volume(model, tokens).item() < 0.01
    set_gates(model, 4, 2.0)
    a = model.model.blocks[0].mixer.gates(torch.zeros(1, 1, 8))[0, 0, 0, :, :-1]
    assert largest_volume(model, tokens).item() == pytest.approx(torch.linalg.det(a).abs().item() ** 0.25, rel=1e-4)
    # Two entries that change places, and two that are overwritten: no volume, and a whole one in two dimensions.
    mixer = model.model.blocks[0].mixer
    with torch.no_grad():
        bias = torch.zeros(mixer.n_blocks, 4, 5)
        bias[:, torch.arange(4), torch.tensor([1, 0, 4, 4])] = 200.0
        mixer.proj_gates.bias.copy_(bias.flatten())
    assert largest_volume(model, tokens).item() < 1e-3
    assert largest_volume(model, tokens, dimensions=2).item() == pytest.approx(1.0)
    assert largest_volume(model, tokens, dimensions=9) == largest_volume(model, tokens)
    with pytest.raises(ValueError, match="must have a mixer with eigenvalues"):
        largest_volume(learner("attention"), tokens)


class Weights(Callback):
    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.seen.append(pl_module.model.head.weight.detach().clone())


def test_starts_again_with_new_weights_and_short_sequences(tmp_path: Path) -> None:
    curriculum = LengthCurriculum(start=2, end=6, smoothing=0.0)
    penalty, restart, weights = GateEntropyPenalty(), VolumeRestart(length=4, min_volume=0.9), Weights()
    model = learner()
    trainer(tmp_path, AlwaysRight(), curriculum, penalty, restart, weights, max_steps=5).fit(model, datamodule=task())
    # Lengths 2, 3, 4: measured after the second step, with gates near uniform.
    assert restart.restarts == 2 and not restart.settled
    assert curriculum.length == 3 and penalty.started_at is None
    # A step of AdamW at 1e-2 moves no weight by more than 0.02; a new draw does.
    jumps = [(b - a).abs().max().item() > 0.025 for a, b in zip(weights.seen, weights.seen[1:], strict=False)]
    assert jumps == [False, True, False, True]


def test_messages_go_through_the_progress_line(tmp_path: Path, capsys) -> None:
    restart = VolumeRestart(length=6, max_steps=2)
    callbacks = (LengthCurriculum(start=2, threshold=0.999), restart, StepProgress())
    trainer(tmp_path, *callbacks, enable_progress_bar=True, max_steps=2).fit(learner(), datamodule=task())
    assert "step 2: length 2 after 2 steps; starting again with new weights" in capsys.readouterr().out


def test_goes_on_where_volume_is_kept(tmp_path: Path) -> None:
    restart = VolumeRestart(length=3, min_volume=0.5)
    model = learner({"name": "bd-lru", "block_size": 2})
    set_gates(model, 2, 50.0)
    curriculum = LengthCurriculum(start=2, end=6, smoothing=0.0)
    trainer(tmp_path, AlwaysRight(), curriculum, restart).fit(model, datamodule=task())
    assert restart.settled and restart.restarts == 0 and curriculum.finished


def test_too_slow_a_start_is_given_up(tmp_path: Path) -> None:
    restart = VolumeRestart(length=6, max_steps=2)
    trainer(tmp_path, LengthCurriculum(start=2, threshold=0.999), restart).fit(learner(), datamodule=task())
    assert restart.restarts == 3 and restart.started_at == 6


def test_restart_is_part_of_the_checkpoint() -> None:
    first, second = VolumeRestart(), VolumeRestart()
    first.restarts, first.started_at, first.settled = 3, 70, True
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()


def test_stops_once_right_and_sharp(tmp_path: Path) -> None:
    curriculum = LengthCurriculum(start=2, end=4, smoothing=0.0)
    run = trainer(tmp_path, AlwaysRight(), curriculum, StopWhenSolved(patience=3), max_steps=50)
    run.fit(learner(), datamodule=task())
    # The last length is reached after step 2, whose batch already counts.
    assert run.global_step == 4
    # Gates that have not chosen keep it going.
    penalty = GateEntropyPenalty(weight=1e-6, ramp_steps=1)
    curriculum = LengthCurriculum(start=2, end=4, smoothing=0.0)
    run = trainer(tmp_path, AlwaysRight(), curriculum, penalty, StopWhenSolved(patience=3), max_steps=20)
    run.fit(learner(), datamodule=task())
    assert run.global_step == 20 and penalty.largest > 0.5


def test_bad_arguments(tmp_path: Path) -> None:
    for arguments, message in (
        ({"length": 0}, "length must be a positive integer, got 0"),
        ({"max_steps": 1.5}, "max_steps must be a positive integer"),
        ({"dimensions": 0}, "dimensions must be a positive integer, got 0"),
        ({"dimensions": True}, "dimensions must be a positive integer, got True"),
        ({"min_volume": 1.0}, r"min_volume must be in \(0, 1\), got 1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            VolumeRestart(**arguments)
    for arguments, message in (
        ({"accuracy": 0}, r"accuracy must be in \(0, 1\], got 0"),
        ({"max_entropy": 0}, "max_entropy must be positive"),
        ({"patience": 0}, "patience must be a positive integer"),
    ):
        with pytest.raises(ValueError, match=message):
            StopWhenSolved(**arguments)
    with pytest.raises(ValueError, match="needs a LengthCurriculum"):
        trainer(tmp_path, VolumeRestart()).fit(learner(), datamodule=task())
