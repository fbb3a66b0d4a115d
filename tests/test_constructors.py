"""What is read from sources is what Python itself says of the classes, and importing takes no part in it."""

import inspect
import subprocess
import sys
from collections import OrderedDict
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from seqmix import mixers
from seqmix._constructors import read_constructor
from seqmix._registry import Entry
from seqmix.mixers.registry import create_mixer, get_mixer, list_mixers
from seqmix.optim.registry import get_optimizer, list_optimizers
from seqmix.tasks.registry import create_task, get_task, list_tasks


def said(target: str) -> dict[str, object]:
    return {each.name: each.default for each in read_constructor(target).arguments}


def known(constructor) -> dict[str, inspect.Parameter]:
    return {p.name: p for p in inspect.signature(constructor).parameters.values() if p.kind is not p.VAR_KEYWORD}


def test_arguments_and_defaults_of_mixers() -> None:
    classes = [getattr(mixers, name) for name in mixers.__all__]
    ours = [each for each in classes if isinstance(each, type) and "d_state" in str(inspect.signature(each))]
    assert len(ours) > 5 and len(list_mixers()) >= 14
    for each in ours:
        found, true = said(f"{each.__module__}:{each.__name__}"), known(each)
        assert list(found) == list(true)
        for name, default in found.items():
            expected = true[name].default
            assert (default is None) == (expected is inspect.Parameter.empty)
            assert default is None or eval(str(default), vars(sys.modules[each.__module__])) == expected


@pytest.mark.parametrize("library", ["seqmix", "torch", "pytorch-optimizer"])
def test_arguments_of_optimizers(library: str) -> None:
    for name in list_optimizers(library=library)[::7]:
        entry = get_optimizer(name)
        assert isinstance(entry.constructor, str)
        if not entry.constructor.startswith("seqmix.optim.closures"):  # theirs, with a step of ours
            assert list(said(entry.constructor)) == list(known(entry.load())), name


def test_meanings_are_those_of_the_docstring_and_of_classes_above() -> None:
    arguments = {each.name: each for each in read_constructor("seqmix.mixers.bd_lru:BDLRU").arguments}
    assert arguments["block_size"].meaning.startswith("m. With softmax gates, m = 2 does parity")
    assert arguments["block_size"].annotation == "int" and arguments["block_size"].default == "4"
    task = read_constructor("seqmix.tasks.long_sequences:Digits")
    assert task.rest == "Unpack[Loading]" and task.attribute("loading") == {"batch_size": 64}
    assert "min_length" in task.attribute("withheld") and "eval_seed" in task.attribute("withheld")
    assert task.attribute("nothing") is None


KINDS = (5, -1, "x", None, [], {}, [[]], 3.5, True, [1, "a"], ["x"], [None], 0, float("nan"))


@pytest.mark.parametrize(
    ("kind", "name"), [*(("mixer", name) for name in list_mixers()), *(("task", name) for name in list_tasks())]
)
def test_a_value_of_any_type_is_taken_or_is_a_value_error(kind: str, name: str) -> None:
    """What stands in a config or a dict may be anything, and no operator is the first to say so."""
    entry = get_mixer(name) if kind == "mixer" else get_task(name)
    create = partial(create_mixer, name, 16) if kind == "mixer" else partial(create_task, name)
    for argument in set(entry.parameters()) - {"d_model", "device", "dtype"}:
        for value in KINDS:
            with suppress(ValueError, ImportError, NotImplementedError):
                create(**{argument: value})


def test_what_a_constructor_takes_is_not_refused_for_its_annotation(tmp_path: Path) -> None:
    (text := tmp_path / "a.txt").write_text("a text\n" * 500)
    table = OrderedDict({"step": [[0, 1], [1, 0]], "output": [0, 1]})
    for name, arguments in {
        "language-modeling": {"files": [text], "train_length": 8, "eval_lengths": (8,)},
        "even-pairs": {"seed": np.int64(3), "eval_range": (np.int64(10), np.int64(20))},
        "word-problem": {"group": "S3", "generators": range(1, 3)},
        "automaton": {"automaton": table, "eval_lengths": [8]},
    }.items():
        create_task(name, **arguments)
    assert create_mixer("mamba", 16, dt_min=np.float32(1e-3), d_state=8).state_size()


def test_annotations_of_others_refuse_nothing() -> None:
    def theirs(d_model, size=None, kind=None, **rest):
        return size, kind, rest

    theirs.__annotations__ = {"size": int, "kind": "of some kind"}
    entry = Entry("theirs", theirs, "")
    assert entry.build("mixer", 16, size=None, kind=3, more="x") == (None, 3, {"more": "x"})


def test_what_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"no source of a module 'seqmix.nothing'"):
        read_constructor("seqmix.nothing:Thing")
    with pytest.raises(ValueError, match="no class or function of that name"):
        read_constructor("seqmix.mixers.bd_lru:Thing")


def test_optimizers_are_listed_without_torch() -> None:
    code = (
        "import sys; from seqmix.optim.registry import get_optimizer, list_optimizers; "
        "print(len([get_optimizer(name).line for name in list_optimizers()]), 'torch' in sys.modules)"
    )
    count, torch = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert int(count) > 100 and torch == "False"
