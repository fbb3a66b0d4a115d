"""Scores by lm-evaluation-harness, which pads and batches itself: its model of transformers, with our settings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from seqmix._extras import require
from seqmix.hf.model import SeqmixForCausalLM

__all__ = ["evaluate", "harness_model"]


def harness_model(
    model: SeqmixForCausalLM, tokenizer: PreTrainedTokenizerBase, *, max_length: int = 2048, batch_size: int = 1
) -> Any:
    """An `HFLM` of the harness around a model.

    Its cache of logits is off: requests with the same tokens but another border between context and continuation
    read each other's rows there, so scores depend on the batch size.
    """
    huggingface = require("lm_eval.models.huggingface", extra="eval", owner="seqmix.hf.harness")
    return huggingface.HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        backend="causal",
        max_length=max_length,
        batch_size=batch_size,
        logits_cache=False,
    )


def evaluate(
    model: SeqmixForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    *,
    include_path: str | Path | None = None,
    max_length: int = 2048,
    batch_size: int = 1,
    num_fewshot: int | None = None,
    limit: int | None = None,
    metadata: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What the harness's `simple_evaluate` returns: `results` by task, and what it ran with.

    Args:
        model: a causal model.
        tokenizer: with a bos or an eos token, which stands before every document.
        tasks: names of the harness's tasks, or of those in the YAML files under `include_path`.
        include_path: folder of tasks of one's own; the harness's are then not searched, which takes long.
        max_length: tokens of a window; a model without positions has no limit of its own.
        batch_size: requests in a batch. Scores do not depend on it, for padding never meets a state.
        num_fewshot: examples in front of each request; the task's own unless given.
        limit: how many requests of each task.
        metadata: what some tasks ask for, as RULER its lengths, `{"max_seq_lengths": [4096]}`.

    Raises:
        ValueError: a task that there is not.
        ImportError: lm-eval is not installed.
    """
    owner = "seqmix.hf.harness.evaluate"
    evaluator = require("lm_eval.evaluator", extra="eval", owner=owner)
    manager = require("lm_eval.tasks", extra="eval", owner=owner).TaskManager(
        include_path=include_path, include_defaults=include_path is None, metadata=metadata
    )
    unknown = [task for task in tasks if task not in manager.all_tasks]
    if unknown:
        where = f"in {include_path}" if include_path else "in lm-eval"
        raise ValueError(f"tasks: there is no {', '.join(map(repr, unknown))} {where}")
    results: dict[str, Any] = evaluator.simple_evaluate(
        model=harness_model(model, tokenizer, max_length=max_length, batch_size=batch_size),
        tasks=list(tasks),
        task_manager=manager,
        num_fewshot=num_fewshot,
        limit=limit,
        bootstrap_iters=0,
        log_samples=False,
    )
    return results
