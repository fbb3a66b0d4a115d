"""What is published about a setting stands in its config, number by number."""

from typing import Any

import pytest
import torch

from seqmix.models import SequenceModel
from seqmix.tasks import create_task
from seqmix.training.config.files import load_config

# Of the papers' appendices and the released configs that the files name.
PUBLISHED: dict[str, dict[str, Any]] = {
    "listops-paper": {
        "data.batch_size": 32, "data.train_size": 96_000, "model.n_layers": 6, "model.d_model": 128,
        "model.norm": "batch", "model.glu": True, "model.bidirectional": None, "model.dropout": None,
        "mixer.name": "lru", "mixer.d_state": 256, "mixer.r_min": 0, "mixer.r_max": 0.99, "mixer.lr_factor": 0.5,
        "optimizer.weight_decay": 0.05, "schedule.name": "cosine", "schedule.warmup": 8_000,
        "trainer.max_steps": 80_000,
    },
    "word-problem-paper": {
        "data.group": "A5", "data.min_length": 2, "data.train_length": 16, "data.batch_size": 512,
        "model.d_model": 512, "model.n_layers": 1, "mixer.d_state": 16, "mixer.gradient": "phantom",
        "optimizer.lr": 1e-4, "optimizer.betas": [0.9, 0.999], "optimizer.weight_decay": 0.01,
        "schedule.name": "cosine", "schedule.warmup": 0, "curriculum": None, "trainer.max_steps": 5 * 25_428,
        "trainer.precision": "bf16-mixed",
    },
    "string-copy-paper": {
        "data.n_letters": 26, "data.min_length": 2, "data.train_length": 64, "data.packed": True,
        "model.d_model": 512, "model.n_layers": 4, "mixer.name": "gla", "mixer.n_heads": 16, "mixer.expand_k": 1,
        "mixer.rope_options.temperature": "rfa", "mixer.rope_options.theta": 0.9999,
        "mixer.rope_options.temperature_max": 0.25, "mixer.rope_options.d_conv": "difference",
        "optimizer.lr": 2e-3, "optimizer.weight_decay": 0.1, "schedule.name": "linear", "schedule.warmup": 500,
        "trainer.max_steps": 5_000,
    },
}  # fmt: skip


def value(config: dict[str, Any], path: str) -> Any:
    found: Any = config
    for key in path.split("."):
        found = None if found is None else found.get(key)
    return found


@pytest.mark.parametrize("name", PUBLISHED)
def test_configs_say_what_is_published(name: str) -> None:
    config = load_config(name)
    assert {path: value(config, path) for path in PUBLISHED[name]} == PUBLISHED[name]


def test_copying_has_decays_that_are_not_tied_and_the_published_width() -> None:
    config = load_config("string-copy-paper")
    task = create_task(**{**config["data"], "batch_size": 2})
    with torch.device("meta"):
        model = SequenceModel(config["mixer"], task.vocab_size, **config["model"])
    layer: Any = model.mixers[0]
    assert not layer.tie_decay and layer.d_key == 32 and layer.position.rank == 16
    assert model.blocks[0].mlp.down_proj.in_features == 1536  # flash-linear-attention's width for a ratio of 4
