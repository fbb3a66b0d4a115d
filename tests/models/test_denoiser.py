"""What a denoiser is given and gives back, samples and corrections."""

import pytest
import torch
from torch.nn.functional import one_hot

from seqmix.models import GIDD, Denoiser, SequenceModel


def denoiser(mixer: str = "bd-lru", p_u: float = 0.2, **options) -> Denoiser:
    torch.manual_seed(0)
    model = SequenceModel(mixer, 5 + 1 + 4, 8, 1, bidirectional=True, **options)
    return Denoiser(model, GIDD(5, p_u), time_bins=4).eval()


class Says(torch.nn.Module):
    """A model that says one symbol at each place, whatever it sees."""

    vocab_size, head_name, bidirectional = 10, "language", True

    def __init__(self, symbols: list[int]) -> None:
        super().__init__()
        self.symbols = torch.tensor(symbols)

    def forward(self, tokens: torch.Tensor, *, cu_seqlens: torch.Tensor | None = None):
        self.seen = tokens
        logits = torch.zeros(len(tokens), 1 + len(self.symbols), 10)
        logits[:, 1:] = 30.0 * one_hot(self.symbols, 10)
        return logits, None


@pytest.mark.parametrize("mixer", ["bd-lru", "attention", "lstm"])
def test_packed_rows_are_rows(mixer: str) -> None:
    net, generator = denoiser(mixer), torch.Generator().manual_seed(0)
    rows = [torch.randint(6, (1, length), generator=generator) for length in (4, 1, 7)]
    t = torch.tensor([0.1, 0.9, 0.4])
    bounds = torch.tensor([0, 4, 5, 12], dtype=torch.int32)
    together = net(torch.cat(rows, 1), t, bounds)
    for row, time, start, stop in zip(rows, t, bounds, bounds[1:], strict=False):
        torch.testing.assert_close(together[:, start:stop], net(row, time[None]), rtol=1e-4, atol=1e-5)


def test_the_time_stands_in_front() -> None:
    model = Says([0, 0])
    Denoiser(model, GIDD(5), 4)(torch.tensor([[5, 1], [2, 5]]), torch.tensor([0.3, 1.0]))
    assert model.seen.tolist() == [[6 + 1, 5, 1], [6 + 3, 2, 5]]


@pytest.mark.parametrize("p_u", [0.0, 0.4])
def test_samples_are_symbols_behind_their_prompts(p_u: float) -> None:
    net, prompts = denoiser(p_u=p_u).train(), torch.tensor([[1, 2], [3, 4]])
    drawn = [net.sample(prompts, 9, steps=5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert drawn[0].shape == (2, 11) and torch.equal(drawn[0][:, :2], prompts) and drawn[0].max() < 5
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert net.training and net.model.training, "it is what it was"


def test_a_sure_model_is_sampled_exactly() -> None:
    net = Denoiser(Says([0, 3, 1, 4]), GIDD(5, 0.3), 4)
    assert net.sample(torch.tensor([[0]]), 3, steps=3).tolist() == [[0, 3, 1, 4]]


def test_corrections_put_in_what_the_model_is_sure_of() -> None:
    net, text = Denoiser(Says([0, 3, 1, 4, 2]), GIDD(5, 0.3), 4), torch.tensor([[2, 3, 0, 0, 2], [0, 3, 1, 4, 2]])
    assert net.correct(text, 9).tolist() == [[0, 3, 1, 4, 2]] * 2
    assert net.correct(text, 9, fixed=1).tolist() == [[2, 3, 1, 4, 2], [0, 3, 1, 4, 2]]
    once = net.correct(text, 1)
    assert (once[0] != text[0]).sum() == 1 and torch.equal(once[1], text[1])


def test_a_row_that_does_not_agree_more_ends() -> None:
    """A model that always says that all is another: agreement stays 0, and the row is what it was."""

    class Contrary(Says):
        def forward(self, tokens: torch.Tensor, *, cu_seqlens: torch.Tensor | None = None):
            return 30.0 * one_hot((tokens + 1) % 5, 10).float(), None

    model, calls = Contrary([]), []
    model.register_forward_hook(lambda *_: calls.append(1))
    text = torch.tensor([[0, 1, 2]])
    assert torch.equal(Denoiser(model, GIDD(5, 0.3), 4).correct(text, 50, patience=3), text) and len(calls) <= 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bidirectional": False}, "bidirectional layers and a language head, got causal layers"),
        ({"head": "autoencoder"}, "got head 'autoencoder'"),
        ({"vocab_size": 9}, "5 symbols, a mask and 4 times, 10 tokens, got 9"),
    ],
)
def test_models_that_do_not_fit(change: dict, message: str) -> None:
    model = SequenceModel("lstm", **{"vocab_size": 10, "d_model": 8, "bidirectional": True} | change)
    with pytest.raises(ValueError, match=message):
        Denoiser(model, GIDD(5), 4)


def test_numbers_out_of_range() -> None:
    net, text = denoiser(), torch.tensor([[1]])
    for bad in ({"steps": 0}, {"temperature": 0.0}, {"max_new_tokens": 0}):
        with pytest.raises(ValueError, match="sample: "):
            net.sample(**{"tokens": text, "max_new_tokens": 3} | bad)
    for bad in ({"steps": 0}, {"temperature": -1.0}, {"time": 0.0}, {"patience": 0}):
        with pytest.raises(ValueError, match="correct: "):
            net.correct(**{"tokens": text, "steps": 3} | bad)
