"""Scores of lm-evaluation-harness are those that one computes by hand, in batches of any size."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval")
from seqmix.__main__ import main
from seqmix.hf import SeqmixForCausalLM, byte_tokenizer
from seqmix.hf.harness import evaluate
from seqmix.models import SequenceModel

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the harness's own warnings

ROWS = [
    {"question": "the cat", "choices": [" sat", " is long gone"], "answer": 0},
    {"question": "on", "choices": [" the mat", "!"], "answer": 1},
    {"question": "a much longer question than these", "choices": [" yes", " no"], "answer": 0},
]
TASKS = {
    "choice": """task: choice
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: answer
doc_to_choice: "{{choices}}"
target_delimiter: ""
metric_list: [{metric: acc}]
""",
    "rolling": """task: rolling
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: bits_per_byte}]
""",
    "writing": """task: writing
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: " sat"
generation_kwargs: {until: ["\\n"], max_gen_toks: 4, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    common = (
        f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / 'data.jsonl'}}}}}\ntest_split: test\n"
    )
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(text + common)
    return folder


def language_model(mixer: Any = "gla") -> SequenceModel:
    torch.manual_seed(0)
    model = SequenceModel(mixer, vocab_size=257, d_model=16, n_layers=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model.eval()


def log_likelihood(model: SequenceModel, context: str, text: str) -> float:
    before, after = list(context.encode()) or [256], list(text.encode())
    logits, _ = model(torch.tensor([[*before, *after]]))
    scores = logits[0, len(before) - 1 : -1].log_softmax(-1)
    return scores.gather(1, torch.tensor(after)[:, None]).sum().item()


@pytest.mark.parametrize("batch_size", [1, 8])
def test_scores_are_those_by_hand(tasks: Path, batch_size: int) -> None:
    model = language_model()
    wrapped = SeqmixForCausalLM.from_model(model, eos_token_id=256, pad_token_id=256)
    found = evaluate(wrapped, byte_tokenizer(), list(TASKS), include_path=tasks, batch_size=batch_size)["results"]
    right = [
        int(max((0, 1), key=lambda i: log_likelihood(model, row["question"], row["choices"][i])) == row["answer"])
        for row in ROWS
    ]
    assert found["choice"]["acc,none"] == pytest.approx(sum(right) / len(right))
    total = sum(log_likelihood(model, "", row["question"]) for row in ROWS)
    n_bytes = sum(len(row["question"].encode()) for row in ROWS)
    assert found["rolling"]["bits_per_byte,none"] == pytest.approx(-total / n_bytes / math.log(2), abs=1e-6)
    assert 0 <= found["writing"]["exact_match,none"] <= 1


def test_from_the_command_line(tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    language_model().save_pretrained(tmp_path / "model")
    line = ["eval", str(tmp_path / "model"), "--include_path", str(tasks), "--out", str(tmp_path / "out.json")]
    assert main([*line, "--tasks", "choice,rolling"]) == 0
    assert "bits_per_byte" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["results"].keys() == {"choice", "rolling"}
    assert main([*line, "--tasks", "chioce"]) == 2
    assert "there is no 'chioce'" in capsys.readouterr().err
