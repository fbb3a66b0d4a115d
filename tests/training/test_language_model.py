"""Training on text: bits per byte, states carried over batches, checkpoints with tokenizers, generation."""

import json
import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.nn import functional as F

from seqmix.__main__ import main
from seqmix.commands.generate import load_language_model
from seqmix.models import SequenceModel
from seqmix.tasks import create_task
from seqmix.training import SequenceLearner
from seqmix.training.callbacks import Checkpoints, TrainingInterrupted
from seqmix.training.carried_state import CarriedState
from seqmix.training.metrics import Counts

HYBRID = ["bd-lru", {"name": "attention", "n_heads": 2, "position": "rope", "window": 6}]
TEXTS = [f"The {n}th document has {'many ' * (n % 9)}words." for n in range(40)]


class OneProcess:
    def reduce(self, tensor: torch.Tensor, reduce_op: str) -> torch.Tensor:
        return tensor


@pytest.fixture
def files(tmp_path: Path) -> str:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return str(path)


def test_bits_per_byte_by_hand() -> None:
    # Two batches, three bytes a token but for the last, which stands for none.
    logits, targets = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    n_bytes = torch.full((2, 5), 3)
    n_bytes[1, 4] = 0
    targets[0, 0] = -100
    n_bytes[0, 0] = 0
    counts = Counts(torch.device("cpu"))
    for row in range(2):
        bounds = torch.tensor([0, 2, 5])
        counts.add(logits[row : row + 1], targets[row : row + 1], bounds, n_bytes[row : row + 1])
    rates = {name: float(value) for name, value in counts.rates(OneProcess()).items()}
    nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
    assert rates["bits_per_byte"] == pytest.approx(nats / (8 * 3 * math.log(2)))
    assert rates["perplexity"] == pytest.approx(math.exp(nats / 9)) and rates["loss"] == pytest.approx(nats / 9)
    assert "sequence_accuracy" not in rates


def test_carried_state_is_that_of_the_whole_document(files: str) -> None:
    task = create_task("language-modeling", files=files, train_length=8, batch_size=3, carry_state=True)
    model = SequenceModel(HYBRID, task.vocab_size, 8, 2, dtype=torch.float64)
    carried, compared = CarriedState(), 0
    documents: dict[int, list] = {}
    with torch.no_grad():
        for batch, _ in zip(task.train_dataloader(), range(25), strict=False):
            carried.advance()
            logits = carried.answer(model, batch)
            torch.testing.assert_close(carried.answer(model, batch), logits, rtol=0, atol=0)  # asked twice, as some do
            bounds = batch["cu_seqlens"].tolist()
            for s, origin in enumerate(batch["carry_from"].tolist()):
                part = slice(bounds[s], bounds[s + 1])
                row = bounds[s] // 8
                if origin < 0:
                    documents[row] = []
                documents[row].append((batch["tokens"][0, part], logits[0, part]))
                tokens, wanted = (torch.cat(parts) for parts in zip(*documents[row], strict=True))
                torch.testing.assert_close(model(tokens[None])[0][0], wanted)
                compared += len(documents[row]) > 2
    assert compared > 10 and not carried.end.layers[0].h.requires_grad


def test_the_gradient_stops_between_batches(files: str) -> None:
    task = create_task("language-modeling", files=files, train_length=8, batch_size=3, carry_state=True)
    model, carried = SequenceModel("bd-lru", task.vocab_size, 8), CarriedState()
    for batch, _ in zip(task.train_dataloader(), range(3), strict=False):
        model.zero_grad()
        carried.advance()
        carried.answer(model, batch).sum().backward()  # a second pass through freed graphs would raise


class StopAfter(Callback):
    """Asks for an interruption as a signal does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            trainer.checkpoint_callback._note(15)


def train(path: Path, files: str, *, stop: int | None = None, resume: bool = False, **data) -> dict:
    torch.manual_seed(1 if resume else 0)
    task = create_task("language-modeling", files=files, train_length=12, batch_size=3, **data)
    learner = SequenceLearner(HYBRID, task.vocab_size, 8, 2, dropout=0.1, optimizer={"name": "adamw", "lr": 1e-2})
    callbacks: list[Callback] = [Checkpoints(every_n_steps=4), *([] if stop is None else [StopAfter(stop)])]
    trainer = Trainer(
        max_steps=12,
        accelerator="cpu",
        callbacks=callbacks,
        default_root_dir=path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        val_check_interval=5,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
    )
    if stop is None:
        trainer.fit(learner, datamodule=task, ckpt_path=path / "checkpoints" / "last.ckpt" if resume else None)
    else:
        with pytest.raises(TrainingInterrupted):
            trainer.fit(learner, datamodule=task)
    return torch.load(path / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize(
    "data",
    [{}, {"carry_state": True}, {"carry_state": True, "streaming": True, "eval_documents": 2}],
    ids=["packed", "carried", "streamed"],
)
def test_resumed_equals_uninterrupted(tmp_path: Path, files: str, data: dict) -> None:
    whole = train(tmp_path / "whole", files, **data)
    assert train(tmp_path / "part", files, stop=7, **data)["global_step"] == 7
    resumed = train(tmp_path / "part", files, resume=True, **data)
    assert ("carried_state" in whole) == ("carry_state" in data)
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    for a, b in zip(whole.get("carried_state", []), resumed.get("carried_state", []), strict=True):
        assert torch.equal(a, b)
    best = torch.load(tmp_path / "whole" / "checkpoints" / "best.ckpt")
    (state,) = [state for name, state in best["callbacks"].items() if name.startswith("Checkpoints")]
    assert state["monitor"] == "val/bits_per_byte" and 1 < state["best_model_score"] < 9


SMALL = ["--trainer.accelerator=cpu", "--trainer.max_steps=6", "--data.train_length=16", "--data.batch_size=2"]
SMALL += [
    "--trainer.val_check_interval=3",
    "--data.eval_lengths=[16, 32]",
    "--model.d_model=8",
    "--trainer.logger=false",
]


def test_commands_on_text(files: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train-tokenizer", "bpe.json", "--vocab-size", "300", "--files", files]) == 0
    printed = capsys.readouterr().out
    assert "bpe.json: 300 tokens, " in printed and "bytes a token on validation documents" in printed
    assert main(["train-tokenizer", "few.json", "--vocab-size", "300", "--files", files, "--documents", "5"]) == 0
    assert (tmp_path / "few.json").read_text() != (tmp_path / "bpe.json").read_text()
    capsys.readouterr()
    options = [*SMALL, f"--data.files={files}", "--data.tokenizer=bpe.json", "--accuracy_table.figure=false"]
    options.append("--trainer.callbacks+=seqmix.leaderboard.sweep.recorder.RunRecorder")
    assert main(["fit", "--config", "lm", *options]) == 0
    results = json.loads((tmp_path / "runs/lm/1/results.json").read_text())
    result = results["result"]
    assert result["metric"] == "bits_per_byte" and not result["diverged"]
    assert [point["step"] for point in result["curve"]] == [3, 6] and result["curve"][1]["bpb"] > 1
    assert set(result["metrics"]) == {"16", "32"} and set(result["metrics"]["16"]) == {"tok", "loss", "bpb", "ppl", "n"}
    assert results["identity"]["task"] == "language-modeling" and len(results["identity"]["task_version"]) == 16
    printed = capsys.readouterr().out
    assert "bits per byte" in printed and "documents at each length" in printed
    assert (tmp_path / "runs/lm/1/text.csv").read_text().startswith("length,loss,bits_per_byte,perplexity")
    assert main(["predict", "--ckpt_path", "last"]) == 0
    capsys.readouterr()

    sample = ["generate", "lm", "--prompt", "The äth", "--max-new-tokens", "30"]
    texts = []
    for extra in ([], [], ["--seed", "1"], ["--temperature", "0"], ["--top-k", "1"]):
        assert main([*sample, *extra]) == 0
        texts.append(capsys.readouterr().out)
    assert all(text.startswith("The äth") and len(text) > 12 for text in texts)
    assert texts[0] == texts[1] != texts[2] and texts[3] == texts[4]

    model, tokenizer = load_language_model(tmp_path / "runs/lm/1/checkpoints/last.ckpt")
    assert tokenizer.vocab_size == model.vocab_size == 301 and not model.training
    for argument, message in (
        (["--top-k", "0"], "top_k must be a positive integer, got 0"),
        (["--temperature", "-1"], "temperature must be a finite number"),
    ):
        assert main([*sample, *argument]) == 2
        assert message in capsys.readouterr().err

    # Another tokenizer of the same size, for training and in the file.
    main(["train-tokenizer", "other.json", "--vocab-size", "300", "--corpus", "pydoc"])
    command = ["fit", "--config", "lm", "--ckpt_path", "last", "--data.tokenizer", "other.json"]
    assert main([*command, "--trainer.max_steps=9"]) == 2
    assert "data.tokenizer: the run of this checkpoint has 'bpe.json'" in capsys.readouterr().err
    path = tmp_path / "runs/lm/1/checkpoints/last.ckpt"
    content = torch.load(path)
    content["LanguageModeling"]["tokenizer"] = Path("other.json").read_text()
    torch.save(content, "changed.ckpt")
    assert main(["generate", "changed.ckpt"]) == 2
    assert "is not its model's" in capsys.readouterr().err


def test_what_is_no_language_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.ckpt").write_bytes(b"nothing")
    torch.save({"hyper_parameters": {}, "state_dict": {}}, "parity.ckpt")
    for name, message in (
        ("broken.ckpt", "broken.ckpt is not one of seqmix fit"),
        ("parity.ckpt", "parity.ckpt was not trained on text"),
        ("lm", "has no run; seqmix fit --config lm makes one"),
    ):
        assert main(["generate", name]) == 2
        assert message in capsys.readouterr().err
    assert main(["generate", "parity.ckpt", "--device", "foo"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "--device: 'foo' is not there" in error
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    for name, message in (("empty", "expected text, got an empty file"), ("latin", "expected UTF-8 text")):
        assert main(["fit", "--config", "lm", *SMALL, f"--data.files={name}.txt"]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not list(tmp_path.glob("runs/lm/*")), "nothing began"


def test_states_are_carried_by_the_shipped_config(files: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = [*SMALL, f"--data.files={files}", "--accuracy_table.figure=false"]
    assert main(["fit", "--config", "lm-carried", *options]) == 0
    assert "carried_state" in torch.load(tmp_path / "runs/lm-carried/1/checkpoints/last.ckpt")


@pytest.mark.slow
def test_the_published_size_builds_and_takes_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train-tokenizer", "fineweb.json", "--vocab-size", "8192"]) == 0
    # What there is without a hub, and as much of it as a CPU can take; the model is the published one.
    data = ["--data.corpus=pydoc", "--data.eval_documents=1", "--data.train_length=64", "--data.batch_size=1"]
    short = ["--trainer.max_steps=1", "--trainer.precision=32", "--trainer.logger=false", "--test_after_fit=none"]
    assert main(["fit", "--config", "lm-paper", *data, *short, "--trainer.accelerator=cpu"]) == 0
    content = torch.load(tmp_path / "runs/lm-paper/1/checkpoints/last.ckpt")
    assert content["global_step"] == 1 and content["LanguageModeling"]["fingerprint"] != "bytes"
    assert sum(value.numel() for value in content["state_dict"].values()) > 90e6


@pytest.mark.slow
def test_a_minute_of_training_predicts_held_out_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", "lm", "--trainer.max_steps=150", "--trainer.val_check_interval=150"]) == 0
    rows = (tmp_path / "runs/lm/1/text.csv").read_text().splitlines()
    first = dict(zip(rows[0].split(","), rows[1].split(","), strict=True))
    assert float(first["bits_per_byte"]) < 3.0
