"""What training asks of a task: a task's own answers, and defaults for what a data module does not say."""

import pytest
from lightning.pytorch import LightningDataModule

from seqmix.tasks import create_task
from seqmix.tasks.asked import Asked, asked_of


def test_a_data_module_without_answers_has_the_defaults() -> None:
    for module in (LightningDataModule(), None):
        says = asked_of(module)
        assert says.metric == "sequence_accuracy" and not says.free_running and not says.predicts_next
        assert says.n_classes is says.mask_token is says.current_length is says.test_sets is None
    with pytest.raises(AttributeError, match="batch_sise"):
        asked_of(None).batch_sise  # type: ignore[attr-defined]  # noqa: B018


def test_a_task_answers_for_itself() -> None:
    says = asked_of(create_task("string-copy", train_length=8, eval_lengths=[8]))
    assert says.free_running and says.predicts_next and says.train_length == 8
    assert [each.name for each in says.test_sets] == ["8"]


def test_every_question_is_explained() -> None:
    assert all(f"{name}:" in Asked.__doc__ or f"{name}," in Asked.__doc__ for name in Asked.__annotations__)
