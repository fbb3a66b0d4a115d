"""What is not finite stays in its own sequence, whatever a work item leaves in its scratch memory to the next."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

LENGTHS = (40, 33, 35)  # more than a chunk of most CPU kernels, so that borders are kept; a case may have others
POISONED = 1


class Poisoned:
    """Outputs and gradients of one op under poison, for sequences in rows or packed."""

    def __init__(self, case: Any, backend: str | None, packed: bool, lengths: tuple[int, ...]) -> None:
        self.case, self.packed, self.lengths = case, packed, lengths
        bounds = torch.tensor([0, *lengths]).cumsum(0).int()
        inputs = case.make(1, sum(lengths)) if packed else case.make(len(lengths), lengths[0])
        whole = [name for name, x in inputs.items() if not (x.is_floating_point() or x.is_complex())]
        self.fixed = {n: inputs[n].to(self._type(inputs[n])) for n in inputs if n in (*case.untimed, *whole)}
        self.sources = {name: x.to(self._type(x)) for name, x in inputs.items() if name not in self.fixed}
        state = case.state(len(lengths))
        self.sources["initial_state"] = state.to(self._type(state))
        self.options = case.options | {"backend": backend, "cu_seqlens": bounds if packed else None}
        self.upstream = [torch.randn_like(output) for output in self._outputs(self.sources)]

    @staticmethod
    def _type(x: Tensor) -> torch.dtype:
        if not (x.is_floating_point() or x.is_complex()):
            return x.dtype
        return torch.complex64 if x.is_complex() else torch.float32

    def _outputs(self, sources: dict[str, Tensor]) -> list[Tensor]:
        *outputs, final = self.case.op(**self.fixed, **sources, **self.options)
        return [*(part for o in outputs for part in (o if isinstance(o, tuple) else (o,))), final]

    def _parts(self, name: str, tensor: Tensor) -> tuple[Tensor, ...]:
        """`tensor` sequence by sequence."""
        timed = name not in ("initial_state", f"upstream {len(self.upstream) - 1}")
        return tensor[0].split(self.lengths) if self.packed and timed else tensor.unbind()

    def _poison(self, name: str, tensor: Tensor, chosen: str | None, value: float) -> Tensor:
        bad = tensor.detach().clone()
        if chosen in (name, "everything"):
            self._parts(name, bad)[POISONED].fill_(value)
        return bad

    def seen(self, chosen: str | None = None, value: float = 0.0) -> dict[str, Tensor]:
        """What the sequences that are not poisoned see, with `value` in the poisoned one's part of `chosen`."""
        sources = {n: self._poison(n, x, chosen, value).requires_grad_() for n, x in self.sources.items()}
        outputs = self._outputs(sources)
        upstream = [self._poison(f"upstream {i}", g, chosen, value) for i, g in enumerate(self.upstream)]
        gradients = torch.autograd.grad(outputs, list(sources.values()), upstream)
        named = {f"upstream {i}": output for i, output in enumerate(outputs)}
        named |= dict(zip(sources, gradients, strict=True))
        seen = {}
        for name, tensor in named.items():
            parts = list(self._parts(name, tensor))
            del parts[POISONED]
            seen[name] = torch.cat([part.flatten() for part in parts])
        return seen

    def places(self) -> Iterator[str]:
        yield from self.sources
        yield from (f"upstream {i}" for i in range(len(self.upstream)))


class PoisonContract:
    """Inherited by every kernel's contract."""

    backend: str | None

    @pytest.mark.parametrize("packed", [False, True], ids=["rows", "packed"])
    def test_a_poisoned_sequence_leaves_the_others_as_they_were(self, case: Any, packed: bool) -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # one worker takes all sequences, with the same scratch memory
        try:
            run = Poisoned(case, self.backend, packed, case.poisoned)
            expected = run.seen()
            for place in run.places():
                for value in (torch.inf, torch.nan):
                    for name, found in run.seen(place, value).items():
                        assert torch.equal(found, expected[name]), f"{value} in {place} reaches {name} of others"
        finally:
            torch.set_num_threads(threads)


class InterpretedPoisonContract(PoisonContract):
    """The same in what an interpreter has time for: NaN, which stays where infinity stays, everywhere at once."""

    test_a_poisoned_sequence_leaves_the_others_as_they_were = None  # type: ignore[assignment]

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore:(.* encountered in|All-NaN slice):RuntimeWarning")
    def test_a_poisoned_packed_sequence_leaves_the_others_as_they_were(self, case: Any) -> None:
        run = Poisoned(case, self.backend, packed=True, lengths=(9, 17, 3))
        expected = run.seen()
        for name, found in run.seen("everything", torch.nan).items():
            assert torch.equal(found, expected[name]), f"NaN reaches {name} of others"
