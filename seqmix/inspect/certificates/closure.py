"""The listed states of a certificate are closed under every token, and every read-out from them is right."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix.inspect.certificates.hard_model import HardModel, Rows, Stream, copied, require
from seqmix.inspect.certificates.network import Choices
from seqmix.inspect.certificates.record import Certificate, Proof
from seqmix.inspect.certificates.soft import Drift, drift_of
from seqmix.tasks.automata import IGNORE, Automaton

__all__ = ["Closure"]


class Closure:
    """One pass over all listed states and all tokens; see `seqmix.inspect.certificates.machine` for symbols."""

    def __init__(self, certificate: Certificate, hard: HardModel, automaton: Automaton) -> None:
        proof: Any = certificate.proof
        self.certificate, self.hard, self.automaton = certificate, hard, automaton
        last = hard.network.layers[-1]
        tracked = torch.zeros(last.n_blocks, dtype=torch.bool)
        tracked[torch.tensor(proof.tracked, dtype=torch.int64)] = True
        self.tracked = tracked.repeat_interleave(last.m)
        self.sizes = [*hard.sizes[:-1], int(self.tracked.sum())]
        self.rows = torch.tensor(proof.states, dtype=torch.int64)
        loose = int((~self.tracked).sum())
        ends = [torch.tensor(values, dtype=torch.float64) for values in (proof.low, proof.high)]
        require(self.rows.ndim == 2 and self.rows.shape[1] == 1 + sum(self.sizes), "its states have another size")
        require(self.rows[0].tolist() == [automaton.start] + [0] * sum(self.sizes), "it does not begin at the start")
        require(all(end.shape == (loose,) for end in ends), "its intervals are of other entries")
        require(not loose or len(hard.blocks) == 1, "intervals do not do for such a model")
        require(certificate.states == len(self.rows), "it miscounts its states")
        require(certificate.tracked_blocks == int(tracked.sum()), "it miscounts its blocks")
        self.low, self.high = (torch.zeros(hard.sizes[-1], dtype=torch.float64) for _ in ends)
        self.low[~self.tracked], self.high[~self.tracked] = ends
        self.used = torch.from_numpy((automaton.step >= 0).any(0))
        self._tables(proof)

    def _tables(self, proof: Proof) -> None:
        """What every layer does with each of its inputs, and what symbols stand for, (1 + I K,) with 0 first."""
        require(len(proof.origins) == len(self.sizes) - 1, "it does not have the inputs of every layer")
        tokens = torch.arange(len(self.used))
        # A token that cannot come does what one does that can.
        tokens[~self.used] = tokens[self.used][0]
        below = torch.zeros(len(tokens), 0, dtype=torch.int64)
        self.choices: list[Rows] = []
        self.proved: list[Choices] = []
        self.values: list[tuple[Tensor, Tensor]] = []
        self.numbers: list[dict[bytes, int]] = []
        for layer in range(len(self.sizes)):
            if layer:
                origins = torch.tensor(proof.origins[layer - 1], dtype=torch.int64)
                require(origins.shape[1:] == (1 + sum(self.sizes[:layer]),), "a layer's inputs have another size")
                tokens, below = origins[:, 0], origins[:, 1:]
                self.numbers.append({row.tobytes(): number for number, row in enumerate(origins.numpy())})
            rows, proved = self.hard.rows(layer, self._stream(tokens, below, layer))
            self.choices.append(rows)
            self.proved.append(proved)
            self.values.append((F.pad(rows.value.flatten(), (1, 0)), F.pad(rows.radius.flatten(), (1, 0))))
        require((proof.classes is None) == (proof.ends is None), "classes and their ends belong together")
        self.classes = None if proof.classes is None else self._classes(proof)

    def _classes(self, proof: Proof) -> Tensor:
        """Numbers (V, K) of classes, which hold what is written; symbols stand for all between their ends."""
        rows, size = self.choices[0], self.hard.sizes[0]
        require(len(self.sizes) == 1, "values are taken for one in several layers")
        number = torch.zeros(len(self.used), size, dtype=torch.int64)
        number[:, self.tracked] = torch.tensor(proof.classes, dtype=torch.int64)
        low, high = torch.tensor(proof.ends, dtype=torch.float64)
        require(bool((low <= high).all()) and low[0] == high[0] == 0, "its classes are no intervals, zero first")
        written = (rows.source == size) & self.tracked & self.used.unsqueeze(1)
        chosen = number[written]
        require(bool(((chosen > 0) & (chosen < len(low))).all()), "what is written has no class")
        inside = (rows.value - rows.radius)[written] >= low[chosen]
        inside &= (rows.value + rows.radius)[written] <= high[chosen]
        require(bool(inside.all()), "its classes do not hold what is written")
        self.values[0] = (low + high) / 2, (high - low) / 2 * (1 + 1e-12)
        return number

    def _stream(self, tokens: Tensor, states: Tensor, layers: int) -> Stream:
        stream, begin = self.hard.embed(tokens), 0
        for layer, size in enumerate(self.sizes[:layers]):
            stream = self.hard.behind(layer, stream, *self._meaning(layer, states[:, begin : begin + size]))
            begin += size
        return stream

    def _meaning(self, layer: int, symbols: Tensor) -> tuple[Tensor, Tensor]:
        """What symbols stand for, with radii."""
        value, radius = self.values[layer]
        return value[symbols.abs()] * symbols.sign(), radius[symbols.abs()]

    def check(self) -> None:
        """Raise `ValueError` unless everything holds."""
        step, known = self.automaton.step, {row.tobytes() for row in self.rows.numpy()}
        moves, again = [], False
        for token in self.used.nonzero()[:, 0].tolist():
            before = torch.from_numpy(step[self.rows[:, 0].numpy(), token] >= 0).nonzero()[:, 0]
            after, numbers = self._after(before, token)
            require(all(row.tobytes() in known for row in after.numpy()), f"its states are not closed under {token}")
            again = again or bool((after == self.rows[0]).all(1).any())
            moves.append((token, before, after, numbers))
        later = [token for token, before, _, _ in moves if again or bool((before > 0).any())]
        several = len(self.sizes) > 1
        claims = self.certificate.gap, self.certificate.safe_length
        require(not several or claims == (None, None), "soft gates of several layers are not proved")
        drift = None if several else self._drift(later)
        margins = [self._read(*move, again=again, drift=drift) for move in moves]
        claimed, smallest = self.certificate.margin, min(margins)
        require(claimed is not None and claimed <= smallest + 1e-6 * abs(smallest), "its margin is too large")

    def _after(self, before: Tensor, token: int) -> tuple[Tensor, Tensor]:
        """Rows that a token makes of the rows `before`, and the numbers of the last layer's inputs."""
        rows = self.rows[before]
        next_task = torch.from_numpy(self.automaton.step[rows[:, 0].numpy(), token])
        columns, begin, numbers = [next_task.unsqueeze(1)], 1, torch.full_like(before, token)
        for layer, size in enumerate(self.sizes):
            if layer:
                inputs = torch.cat([torch.full((len(rows), 1), token), *columns[1:]], 1)
                which = [self.numbers[layer - 1].get(row.tobytes(), -1) for row in inputs.numpy()]
                require(-1 not in which, f"its inputs of layer {layer} are not closed under {token}")
                numbers = torch.tensor(which, dtype=torch.int64)
            whole = self.hard.sizes[layer]
            here = self.tracked if layer == len(self.sizes) - 1 else torch.ones(whole, dtype=torch.bool)
            state = torch.zeros(len(rows), whole, dtype=torch.int64)
            state[:, here] = rows[:, begin : begin + size]
            written = 1 + numbers.unsqueeze(1) * whole + torch.arange(whole)
            if self.classes is not None:
                written = self.classes[numbers]
            columns.append(copied(self._choices(layer, numbers), state, written)[:, here])
            begin += size
        return torch.cat(columns, 1), numbers

    def _choices(self, layer: int, numbers: Tensor) -> Rows:
        return Rows(*(each[numbers] for each in self.choices[layer]))

    def _read(
        self, token: int, before: Tensor, after: Tensor, numbers: Tensor, *, again: bool, drift: Drift | None
    ) -> float:
        """Check intervals and read-outs behind one token, with hard and with soft gates; the smallest margin."""
        choices = self._choices(len(self.sizes) - 1, numbers)
        # Row 0 is the start, where nothing was written, unless a word comes back to it.
        start = (before == 0).unsqueeze(1)
        low = torch.where(start, self.low.clamp_max(0) if again else 0.0, self.low)
        high = torch.where(start, self.high.clamp_min(0) if again else 0.0, self.high)
        ends = torch.stack(
            [
                copied(choices, low, choices.value - choices.radius),
                copied(choices, high, choices.value + choices.radius),
            ]
        )
        low, high = ends.amin(0), ends.amax(0)
        inside = ((low >= self.low) & (high <= self.high))[:, ~self.tracked]
        require(bool(inside.all()), f"its intervals are not closed under {token}")
        targets = torch.from_numpy(self.automaton.output[self.rows[before, 0].numpy(), token])
        asked, smallest = (targets != IGNORE).nonzero()[:, 0], float("inf")
        for rows in asked.split(4096) if len(asked) else ():
            states, tokens = after[rows, 1:], torch.full_like(rows, token)
            value, half = (low[rows] + high[rows]) / 2, (high[rows] - low[rows]) / 2
            begin = sum(self.sizes[:-1])
            value[:, self.tracked], half[:, self.tracked] = self._meaning(-1, states[:, begin:])
            below = self._stream(tokens, states, len(self.sizes) - 1)
            least = self._least(below, value, half, targets[rows])
            require(least > 0, f"a read-out after {token} is wrong, or right by rounding only")
            smallest = min(smallest, least)
            if drift is not None and self.certificate.safe_length:
                soft = drift.after(self._steps())(value.numpy(), half.numpy())
                message = f"soft gates are not proved up to {self.certificate.safe_length}"
                require(self._least(below, value, torch.from_numpy(soft), targets[rows]) > 0, message)
        return smallest

    def _least(self, below: Stream, value: Tensor, half: Tensor, targets: Tensor) -> float:
        """The smallest margin of targets (P,), less every doubt, when the last layer's entries are value +- half."""
        margins, doubt = self.hard.margins(self.hard.behind(len(self.sizes) - 1, below, value, half), targets)
        return float((margins - doubt).min())

    def _steps(self) -> float:
        """How many tokens come behind the first at the length that the certificate claims for soft gates."""
        length: Any = self.certificate.safe_length
        return float(length) - (self.automaton.bos is None)

    def _drift(self, later: list[int]) -> Drift:
        """Of a network of one layer, over tokens that may stand first and those that may come `later`."""
        own: Any = self.hard.own
        layer, rounding, proved = self.hard.network.layers[0], self.hard.network.rounding, self.proved[0]
        first = np.flatnonzero(self.automaton.step[self.automaton.start] >= 0)
        drift = drift_of(layer, proved, rounding, np.array(later, dtype=np.int64), first)
        claimed, length = self.certificate.gap, self.certificate.safe_length
        require(claimed is not None and claimed >= drift.gap * (1 - 1e-9), "its gap is too small")
        require(length != float("inf") or drift.none, "soft gates are not hard, as it says")
        # The gates as the model has them may be no softer than is proved of them.
        gates = own.blocks[0].mixer.gates(own.blocks[0].mixer_norm(own.embedding.weight).unsqueeze(1)).abs().cpu()
        gates = gates.double().reshape(len(gates), layer.n_blocks, layer.rows, layer.m + 1).numpy()
        gap, exact = (
            each.reshape(len(gates), layer.n_blocks, layer.m)[..., : layer.rows] for each in (proved.gap, proved.exact)
        )
        softest = np.where(exact, 0.0, gap + rounding.gamma(2 * layer.m))
        used = np.union1d(first, later).astype(np.int64)
        as_proved = (1 - gates.max(-1) <= softest)[used].all() and ((gates != 0).sum(-1) == 1)[used][exact[used]].all()
        require(bool(as_proved), "the model's own gates are softer than what is proved of them")
        return drift
