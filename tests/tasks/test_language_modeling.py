"""Language modelling as a data module: splits, streams, versions, and what is wrong told before training."""

import json
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from seqmix.tasks import create_task
from seqmix.tasks.documents import Document
from seqmix.tasks.language_modeling import LanguageModeling
from seqmix.tasks.splits import split_of

TEXTS = [f"Document {n}: " + "word " * (n % 7) + chr(0xE4 + n % 3) for n in range(60)]


@pytest.fixture
def files(tmp_path: Path) -> str:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return str(path)


def task(files: str, **kwargs) -> LanguageModeling:
    return create_task("language-modeling", files=files, **({"train_length": 16, "batch_size": 4} | kwargs))


def taken(loader, n: int) -> list[dict[str, torch.Tensor]]:
    return list(islice(loader, n))


def equal(a: list[dict[str, torch.Tensor]], b: list[dict[str, torch.Tensor]]) -> bool:
    return all(x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in zip(a, b, strict=True))


def test_a_split_is_a_matter_of_the_text_alone(files: str) -> None:
    data = task(files)
    parts = {split: [d.text for d in data.documents(split)] for split in ("train", "validation", "test")}
    assert sorted(text for texts in parts.values() for text in texts) == sorted(TEXTS) and all(parts.values())
    assert len(parts["train"]) > 40
    for split, texts in parts.items():
        assert all(split_of(Document("elsewhere", text)) == split for text in texts)
    assert [split_of(Document("", "x"), *shares) for shares in ((0.1, 0.9), (0.9, 0.1))] == ["test", "validation"]
    n_bytes = sum(int(batch["n_bytes"].sum()) for batch in data.test_dataloader()[0])
    assert n_bytes == sum(len(text.encode()) for text in parts["test"])
    assert [each.size for each in data.test_sets] == [len(parts["test"])] * 2 and data.eval_size == len(parts["test"])


@pytest.mark.parametrize("carry", [False, True])
def test_batches_are_the_same_every_time_and_follow_the_seed(files: str, carry: bool) -> None:
    first = taken(task(files, carry_state=carry).train_dataloader(), 6)
    assert equal(first, taken(task(files, carry_state=carry).train_dataloader(), 6))
    assert not equal(first, taken(task(files, carry_state=carry, seed=1).train_dataloader(), 6))
    assert all(batch["tokens"].shape == (1, 64) for batch in first)
    assert all(("carry_from" in batch) == carry for batch in first)
    reference = taken(task(files, seed=3).test_dataloader()[1], 99)
    assert equal(reference, taken(task(files, carry_state=carry).test_dataloader()[1], 99))


@pytest.mark.parametrize("carry", [False, True])
def test_a_stream_reads_the_training_documents_in_order_and_resumes(files: str, carry: bool) -> None:
    def new():
        return task(files, streaming=True, eval_documents=2, carry_state=carry, batch_size=1).train_dataloader()

    batches = taken(new(), 200)
    read = bytes(t for batch in batches for t in batch["targets"][0].tolist() if t != 256).decode(errors="ignore")
    wanted = "".join(d.text for d in task(files).documents("train"))
    assert read.startswith(wanted + wanted[:50]), "and begins again"
    first, second = new(), new()
    taken(first, 40)
    second.load_state_dict(first.state_dict())
    assert equal(taken(second, 160), batches[40:])


def test_a_stream_holds_out_the_same_documents(files: str) -> None:
    whole, stream = task(files, eval_documents=3), task(files, eval_documents=3, streaming=True)
    for loaders in ("val_dataloader", "test_dataloader"):
        for a, b in zip(getattr(whole, loaders)(), getattr(stream, loaders)(), strict=True):
            assert equal(list(a), list(b))


def test_versions_tell_data_apart(files: str, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(Path(files).read_text() + json.dumps({"text": "one more"}) + "\n")
    same = {task(files).version(), task(files, seed=4, train_length=8).version()}
    assert len(same) == 1
    changes = [{"files": str(other)}, {"eval_lengths": [16]}, {"test_share": 0.3}, {"eval_documents": 2}]
    assert len(same | {task(**({"files": files} | change)).version() for change in changes}) == 5
    pinned = task(files, eval_lengths=(16, 32)).version()
    assert pinned == "e74265e5a599d990"


def test_a_checkpoint_names_its_tokenizer_and_its_documents(files: str, tmp_path: Path) -> None:
    tokenization = pytest.importorskip("seqmix.tasks.tokenization")
    path = tmp_path / "bpe.json"
    path.write_text(tokenization.train_bpe(TEXTS, 300))
    state = task(files).state_dict()
    task(files).load_state_dict(state)
    with pytest.raises(ValueError, match=r"tokenizer must be the one of the checkpoint, bytes, got .*bpe.json"):
        task(files, tokenizer=str(path)).load_state_dict(state)
    other = tmp_path / "other.jsonl"
    other.write_text(Path(files).read_text().replace("word", "wort"))
    changed = task(str(other))
    changed.load_state_dict(state)  # to measure a checkpoint on other text is fine, to go on training is not
    changed.trainer = SimpleNamespace(training=True)
    with pytest.raises(ValueError, match="a run goes on with the documents it began with"):
        changed.load_state_dict(state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"corpus": "pydok", "files": None}, "unknown corpus 'pydok'; did you mean 'pydoc'"),
        ({"files": "nowhere/*.txt"}, r"files: expected files, .* got 'nowhere/\*.txt'"),
        ({"tokenizer": "gpt2"}, "tokenizer: expected 'bytes' or a JSON file"),
        ({"train_length": 0}, "train_length must be a positive integer, got 0"),
        ({"batch_size": 1.5}, "batch_size must be an integer, got 1.5"),
        ({"eval_documents": 0}, "eval_documents must be a positive integer, got 0"),
        ({"eval_lengths": []}, "eval_lengths must be a list of positive integers"),
        ({"num_workers": -1}, "num_workers must be an integer of at least 0"),
        ({"test_share": 0.0}, "test_share must be positive, and below 1 together, got 0.1 and 0.0"),
        ({"validation_share": 0.5, "test_share": 0.5}, "below 1 together, got 0.5 and 0.5"),
        ({"separator": ""}, "separator must be a text that is not empty"),
        ({"streaming": True}, "streaming needs num_workers = 0, .* got 0 and None"),
        ({"streaming": True, "eval_documents": 2, "num_workers": 2}, "streaming needs .* got 2 and 2"),
        ({"fields": "x"}, "'fields'; did you mean 'field' or 'files'"),
        ({"field": "txt"}, "unknown field of .*texts.jsonl:1: 'txt'; did you mean 'text'"),
        ({"validation_share": 1e-9}, "got none for validation from 60 of"),
    ],
)
def test_bad_arguments(files: str, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task(**({"files": files} | arguments)).setup()


def test_one_document_is_cut_in_three(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text(text := "ä中😀." * 100, encoding="utf-8")
    parts = {split: [d.text for d in task(str(path)).documents(split)] for split in ("train", "validation", "test")}
    assert [len(part) for part in parts.values()] == [1, 1, 1] and "".join(part[0] for part in parts.values()) == text
    sizes = [len(part[0].encode()) / len(text.encode()) for part in parts.values()]
    assert sizes == pytest.approx([0.8, 0.1, 0.1], abs=0.005), "by bytes, at the end of a character"
    (name,) = [document.name for document in task(str(path)).documents("train")]
    assert name == f"{path}, bytes 0 to {len(parts['train'][0].encode())}"
    assert task(str(path)).version() == task(str(path)).version()


def test_separators_as_they_are_typed(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("\n\n".join(TEXTS))
    typed, meant = (task(str(path), separator=text) for text in (r"\n\n", "\n\n"))
    assert [d.text for d in typed.documents()] == [d.text for d in meant.documents()] and typed.version()
    two = tmp_path / "two"
    two.mkdir()
    for name in "ab":
        (two / f"{name}.txt").write_text(name)
    with pytest.raises(ValueError, match=r"from 2 of .*two: .* such as --data\.separator '\\n\\n'$"):
        task(str(two)).setup()


def test_ranks(files: str) -> None:
    def on(rank: int, world_size: int, **kwargs) -> LanguageModeling:
        result = task(files, **kwargs)
        sampler = {"rank": rank, "num_replicas": world_size}
        result.trainer = SimpleNamespace(strategy=SimpleNamespace(distributed_sampler_kwargs=sampler), training=False)
        return result

    whole = taken(task(files).train_dataloader(), 3)
    parts = [taken(on(rank, 2).train_dataloader(), 3) for rank in range(2)]
    for index, batch in enumerate(whole):
        assert torch.equal(torch.cat([part[index]["tokens"] for part in parts], 1), batch["tokens"])
    with pytest.raises(ValueError, match="batch_size must be a multiple of the number of ranks 3, got 4"):
        on(0, 3).train_dataloader()
    with pytest.raises(NotImplementedError, match="carry_state works in one process"):
        on(0, 2, carry_state=True).train_dataloader()
