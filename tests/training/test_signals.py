"""Signals end every trainer that a command starts with a sentence, status 130, and something to go on from."""

import os
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from seqmix.__main__ import main
from seqmix._signals import interruptible

SMALL = ["--trainer.accelerator", "cpu", "--data.eval_size", "4", "--data.eval_lengths", "[6]", "--model.d_model", "8"]
SMALL += ["--data.batch_size", "8", "--trainer.logger", "false", "--accuracy_table.figure", "false"]
RUN = ["fit", "--config", "parity", *SMALL, "--mixer", "lstm", "--curriculum", "null", "--data.train_length", "6"]
RUN += ["--data.min_length", "null", "--trainer.max_steps", "4", "--run_dir", "run"]
STAGE = ["fit", "--config", "digits-pretrain", "--trainer.accelerator", "cpu", "--data.batch_size", "8"]
STAGE += ["--model.d_model", "4", "--model.n_layers", "1", "--mixer", "lstm", "--pretrain.steps", "6"]
STAGE += ["--trainer.max_steps", "2", "--trainer.logger", "false", "--test_after_fit", "none"]
STAGE += ["--trainer.limit_val_batches", "0"]


class Send(Callback):
    """Sends this process a signal, or several: before a step, in the test, or when the last step is done."""

    def __init__(self, number: int, stage: str, step: int, times: int = 1) -> None:
        self.number, self.stage, self.step, self.times = number, stage, step, times

    def _send(self) -> None:
        while self.times:
            self.times -= 1
            os.kill(os.getpid(), self.number)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if self.stage == "train" and trainer.global_step == self.step:
            self._send()

    def on_test_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        if self.stage == "test":
            self._send()

    def on_train_end(self, trainer, pl_module) -> None:
        if self.stage == "end":
            self._send()


@pytest.fixture
def send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Gives what lets every trainer of a command have one more callback."""
    monkeypatch.chdir(tmp_path)

    run = Trainer._run

    def install(*arguments) -> None:
        def with_callback(trainer, *args, **kwargs):
            trainer.callbacks = [Send(*arguments), *(c for c in trainer.callbacks if not isinstance(c, Send))]
            return run(trainer, *args, **kwargs)

        monkeypatch.setattr(Trainer, "_run", with_callback)

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield install
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def steps(path: str) -> int:
    return torch.load(path)["global_step"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_step_is_finished_and_kept(send, capsys, number: int) -> None:
    send(number, "train", 2)
    assert main(RUN) == 130
    said = capsys.readouterr().out
    assert f"interrupted by {number.name} after step 3; --ckpt_path run/checkpoints/last.ckpt continues" in said
    assert steps("run/checkpoints/last.ckpt") == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_acts_at_once(send, capsys, number: int) -> None:
    send(number, "train", 2, 2)
    assert main([*RUN, "--checkpoints.every_n_steps", "1"]) == 130
    said = capsys.readouterr().out
    assert f"interrupted at once by a second signal, {number.name}; --ckpt_path run/checkpoints/last.ckpt" in said
    assert steps("run/checkpoints/last.ckpt") == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_test_after_training(send, capsys, number: int) -> None:
    send(number, "test", 0)
    assert main(RUN) == 130
    said = capsys.readouterr().out
    assert f"interrupted by {number.name} in the test after training; seqmix test --ckpt_path run/checkpoints/" in said
    assert steps("run/checkpoints/last.ckpt") == 4
    assert main(["test", "--ckpt_path", "run/checkpoints/last.ckpt"]) == 130
    assert f"seqmix: interrupted by {number.name}" in capsys.readouterr().out


def test_a_signal_after_the_last_step_stops_before_the_test(send, capsys) -> None:
    send(signal.SIGTERM, "end", 0)
    assert main(RUN) == 130
    said = capsys.readouterr().out
    assert "after step 4; --ckpt_path run/checkpoints/last.ckpt continues" in said and "whole sequence" not in said


def test_steps_of_several_batches_are_finished(send) -> None:
    send(signal.SIGTERM, "train", 1)
    assert main([*RUN, "--trainer.accumulate_grad_batches", "3"]) == 130
    batches = torch.load("run/checkpoints/last.ckpt")["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]
    assert (steps("run/checkpoints/last.ckpt"), batches["ready"]) == (2, 6)


def test_pretraining_goes_on_where_it_was(send, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*STAGE, "--run_dir", "whole"]) == 0
    send(signal.SIGTERM, "train", 3)
    assert main([*STAGE, "--run_dir", "part"]) == 130
    said = capsys.readouterr().out
    assert "interrupted by SIGTERM after step 4; --ckpt_path part/checkpoints/pretraining.ckpt continues" in said
    assert steps("part/checkpoints/pretraining.ckpt") == 4
    send(signal.SIGINT, "train", 5, 2)
    assert main([*STAGE, "--run_dir", "part", "--ckpt_path", "last"]) == 130
    assert (
        "interrupted at once by a second signal, SIGINT; --ckpt_path part/checkpoints/pret" in capsys.readouterr().out
    )
    send(signal.SIGTERM, "never", 0)
    assert main([*STAGE, "--ckpt_path", "part/checkpoints/pretraining.ckpt"]) == 0
    assert "pretraining on the task's own inputs: 6 steps" in capsys.readouterr().out
    whole, part = (torch.load(f"{name}/checkpoints/last.ckpt")["state_dict"] for name in ("whole", "part"))
    assert all(torch.equal(value, part[name]) for name, value in whole.items())


def test_a_stage_goes_on_as_it_was_begun(send, capsys: pytest.CaptureFixture[str]) -> None:
    send(signal.SIGTERM, "train", 1)
    assert main([*STAGE, "--run_dir", "part"]) == 130
    for option, message in (
        (("--pretrain.steps", "7"), "pretrain.steps: the run of this checkpoint has 6, and goes on with it; got 7"),
        (("--pretrain", "null"), "expected a config with a section pretrain"),
        (("--optimizer.lr", "0.5"), "optimizer.lr: the run of this checkpoint has 0.003"),
        (("--data.batch_size", "4"), "data.batch_size: the run of this checkpoint has 8"),
    ):
        assert main([*STAGE, "--run_dir", "part", "--ckpt_path", "last", *option]) == 2
        assert message in capsys.readouterr().err
    for command in ("test", "generate"):
        path = ["part/checkpoints/pretraining.ckpt"]
        assert main([command, *(path if command == "generate" else ["--config", "digits", "--ckpt_path", *path])]) == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_every_command_says_so(monkeypatch: pytest.MonkeyPatch, capsys, number: int) -> None:
    monkeypatch.setattr("seqmix.commands.list.main", lambda rest: os.kill(os.getpid(), number))
    assert main(["list", "mixers"]) == 130
    assert capsys.readouterr().err == f"seqmix: interrupted by {number.name}\n"


def test_forked_processes_keep_their_own_ways() -> None:
    with interruptible():
        process = os.fork()
        if process == 0:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGTERM
