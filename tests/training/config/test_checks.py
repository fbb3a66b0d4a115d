"""Mistakes in a config and in options: told by name, with what was meant, before anything is imported."""

import subprocess
import sys

import pytest

from seqmix._annotations import misfit
from seqmix.tasks.registry import list_tasks
from seqmix.training.config.checks import check_config
from seqmix.training.config.files import list_configs, load_config
from seqmix.training.config.options import read_options

CASES = {
    "--config a55": "unknown config 'a55'; did you mean 'a5'",
    "--config a5 --mixer mambo": "unknown mixer 'mambo'; did you mean 'mamba'",
    "--config a5 --data words": "unknown task 'words'; did you mean 'word-problem'",
    "--config a5 --schedule cosin": "unknown schedule 'cosin'; did you mean 'cosine'",
    "--config a5 --mixer.block_size five": "mixer 'bd-lru': block_size must be an integer, got 'five'",
    "--config a5 --mixer.selective 1": "mixer 'bd-lru': selective must be true or false, got 1",
    "--config a5 --data.eval_lengths 16": "task 'word-problem': eval_lengths must be a list of integers, got 16",
    "--config a5 --data.eval_lengths [16,many]": "eval_lengths must be a list of integers, got [16, 'many']",
    "--config a5 --data.min_length some": "min_length must be an integer or null, got 'some'",
    "--config a5 --optimizer.lr fast": "optimizer 'adamw': lr must be a number, got 'fast'",
    "--config a5 --trainer.max_steps five": "trainer.max_steps must be an integer, got 'five'",
    "--config a5 --curriculum.start one": "curriculum.start must be an integer, got 'one'",
    "--config a5 --test_after_fit never": "test_after_fit must be one of last, best, none, got 'never'",
    "--config a5 --trainer fast": "trainer: expected arguments, got 'fast'",
    "--config a5 --optimizer.lr -1": "optimizer 'adamw': lr must be at least 0, got -1",
    "--config a5 --model.d_model 0": "model.d_model must be at least 1, got 0",
    "--config a5 --data.batch_size -4": "task 'word-problem': batch_size must be at least 1, got -4",
    "--config a5 --trainer.gradient_clip_val -1": "trainer.gradient_clip_val: expected a number of at least 0, got -1",
    "--config a5 --trainer.precision bf17": "trainer.precision must be one of 64, 32, 16, bf16,",
    "--config=": "config: expected a name (seqmix list configs) or a file, got ''",
    # Across sections, and by other names.
    "--config a5 --lr 1e-3": "unknown option '--lr'; did you mean '--optimizer.lr'?",
    "--lr 1e-3": "did you mean '--optimizer.lr'?",
    "--config a5 --d_model 32": "did you mean '--model.d_model'?",
    "--config a5 --mixer.d_model 32": "did you mean '--model.d_model'?",
    "--config a5 --trainer.d_model 32": "did you mean '--model.d_model'?",
    "--config a5 --model.lr 1": "did you mean '--optimizer.lr'?",
    "--config a5 --optimizer.learning_rate 1": "argument of optimizer 'adamw': 'learning_rate'; did you mean 'lr'?",
    "--config a5 --gpu": "unknown option '--gpu'; did you mean '--trainer.accelerator'?",
    "--config a5 --device cpu": "did you mean '--trainer.accelerator'?",
    "--config a5 --seed 3": "did you mean '--seed_everything'?",
    "--config a5 --model.layers 3": "did you mean '--model.n_layers'?",
    "--group S4 --config a5": "did you mean '--data.group'?",
    "parity": "got 'parity'; did you mean --config parity?",
}


def told(words: str) -> None:
    options = read_options(words.split())
    check_config(options.changed(options.config))


@pytest.mark.parametrize(("words", "message"), CASES.items())
def test_what_is_wrong_is_named(words: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        told(words)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_shipped_configs_are_right() -> None:
    for name in list_configs():
        check_config(load_config(name))


def test_nothing_heavy_is_imported_for_it() -> None:
    code = """import sys; from seqmix.__main__ import main
status = [main(words.split()) for words in WORDS]
print(status, [name for name in ("torch", "lightning", "jsonargparse", "numpy") if name in sys.modules])"""
    words = [
        f"fit {each}" for each in ("--config a55", "--config a5 --mixer mambo", "--config a5 --trainer.max_steps x")
    ]
    words += [
        "fit --data parity",
        "test --config a5",
        "certify a55",
        "certify parity",
        "generate lm",
        "export lm there",
    ]
    result = subprocess.run([sys.executable, "-c", code.replace("WORDS", repr(words))], capture_output=True, text=True)
    assert result.stdout == f"{[2] * len(words)} []\n" and result.stderr.count("\n") == len(words)
    assert "seqmix fit --data parity --mixer bd-lru has both" in result.stderr


def test_options_of_classes_and_lists() -> None:
    words = "--config a5 --trainer.logger CSVLogger --trainer.logger.save_dir x --trainer.callbacks+=a.B"
    options = read_options(
        [*words.split(), "--trainer.callbacks+", "{class_path: a.C}", "--trainer.max_time", "12:30:00"]
    )
    trainer = options.changed(options.config)["trainer"]
    assert trainer["logger"] == {"class_path": "CSVLogger", "init_args": {"save_dir": "x"}}
    assert trainer["callbacks"] == [{"class_path": "a.B"}, {"class_path": "a.C"}]
    assert trainer["max_time"] == "12:30:00", "a text, not the 45,000 seconds that YAML makes of it"


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        ("int", 3, None),
        ("int", True, "an integer"),
        ("float", 3, None),
        ("'int | None'", None, None),
        ("Optional[Union[int, float]]", "x", "an integer or a number or null"),
        ("Literal['u', 'x']", "v", "one of u, x"),
        ("tuple[int, int] | None", [1, 2], None),
        ("collections.abc.Sequence[str]", ["a", 1], "a list of texts"),
        ("str | Entry | None", 3, None),
        ("dict[str, Any]", 3, "arguments"),
        (None, 3, None),
    ],
)
def test_annotations(annotation: str | None, value: object, expected: str | None) -> None:
    assert misfit(annotation, value) == expected


def test_every_task_has_arguments_that_are_known() -> None:
    for name in list_tasks():
        with pytest.raises(ValueError, match=rf"unknown argument of task '{name}': 'no_such_argument'"):
            check_config({"data": {"name": name, "no_such_argument": 1}})
