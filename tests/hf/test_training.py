"""Trainer, PEFT and pipelines of transformers around our models."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments, pipeline

from seqmix.hf import SeqmixConfig, SeqmixForCausalLM, byte_tokenizer
from seqmix.mixers import list_mixers
from seqmix.optim import create_optimizer

TEXT = ["the cat sat", "on the mat", "and so on", "a dog", "barked at it", "all night", "long ago", "once more"]


def model_of(mixer: Any = "bd-lru") -> SeqmixForCausalLM:
    torch.manual_seed(0)
    return SeqmixForCausalLM(SeqmixConfig(mixer=mixer, vocab_size=257, d_model=16, n_layers=1, eos_token_id=256))


@pytest.mark.slow  # accelerate and datasets take seconds to import
def test_an_epoch_of_trainer_is_our_own_loop(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.padding_side = "right"  # on the left, padding would have to foretell each first token
    rows = [tokenizer(text) for text in TEXT]
    model = model_of()
    own, data = copy.deepcopy(model), DataCollatorForLanguageModeling(tokenizer, mlm=False)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=1, per_device_train_batch_size=2, gradient_accumulation_steps=2,
        max_grad_norm=0, report_to=[], lr_scheduler_type="constant", logging_steps=1, save_strategy="no",
        use_cpu=True, disable_tqdm=True, remove_unused_columns=False, train_sampling_strategy="sequential",
    )  # fmt: skip
    trainer = Trainer(
        model, arguments, data_collator=data, train_dataset=rows,
        optimizers=(create_optimizer("adamw", model, lr=1e-2), None),
    )  # fmt: skip
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    optimizer, expected = create_optimizer("adamw", own, lr=1e-2), []
    for start in range(0, len(rows), 4):  # as one batch, whatever the lengths in its two halves
        batch = data(rows[start : start + 4])
        logits = own(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert losses == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # by PEFT
@pytest.mark.parametrize("mixer", [name for name in list_mixers() if name not in ("gru", "lru", "lstm", "s5")])
def test_lora_on_every_projection(mixer: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    ids = torch.randint(256, (2, 7))
    model = model_of(mixer)
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=linear, init_lora_weights=False))
    adapted(ids, labels=ids).loss.backward()
    without = [n for n, p in adapted.named_parameters() if "lora_" in n and (p.grad is None or not p.grad.any())]
    assert not without, "layers whose weight is read go round it"
    adapted.eval()
    expected = adapted(ids).logits
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(model_of(mixer), tmp_path).eval()
    torch.testing.assert_close(again(ids).logits, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again.merge_and_unload()(ids).logits, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_pipeline_continues_a_batch_of_prompts() -> None:
    model, tokenizer = model_of(), byte_tokenizer()
    write = pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
    options = {"max_new_tokens": 5, "do_sample": False, "return_tensors": True}
    alone = [write(text, **options)[0]["generated_token_ids"][-5:] for text in TEXT[:3]]
    batch = [found[0]["generated_token_ids"][-5:] for found in write(TEXT[:3], batch_size=3, **options)]
    assert batch == alone


def test_bytes_as_a_tokenizer(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = byte_tokenizer()
    text = "héllo <b>\n\n \x00 ☃ 日本"
    ids = tokenizer(text).input_ids
    assert ids == list(text.encode())
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(text).input_ids == ids and again.decode(ids) == text
    assert (again.eos_token_id, again.pad_token_id, len(again), again.padding_side) == (256, 256, 257, "left")
    other = byte_tokenizer(bos_token="<s>", eos_token="</s>")
    assert (other.bos_token_id, other.eos_token_id) == (256, 257)
    with pytest.raises(ValueError, match="special tokens are bos_token, eos_token, pad_token, got end_token"):
        byte_tokenizer(end_token="<e>")


def test_the_tokenizer_of_a_run_has_its_ids(tmp_path: Path) -> None:
    from seqmix.hf import tokenizer_from
    from seqmix.tasks.tokenization import load_tokenizer, train_bpe

    path = tmp_path / "bpe.json"
    path.write_text(train_bpe([text + "\n" for text in TEXT * 3], 280))
    own, theirs = load_tokenizer(str(path)), tokenizer_from(path)
    assert theirs("the cat").input_ids == own.encode("the cat")[0].tolist()
    assert (theirs.eos_token_id, len(theirs)) == (own.eos, own.vocab_size)
