"""The listed states of a certificate are closed under every token, and every read-out from them is right."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix.inspect.certificates.hard_model import HardModel, Rows, copied, require
from seqmix.inspect.certificates.record import Certificate, Proof
from seqmix.tasks.automata import IGNORE, Automaton

__all__ = ["Closure"]


class Growth(NamedTuple):
    """What soft gates add to the doubt of each entry (K,): at the first token, at each later one, by rounding in both.

    low and high hold everything that the block of an entry is ever given.
    """

    first: Tensor
    later: Tensor
    rounding: Tensor
    low: Tensor
    high: Tensor


class Closure:
    """One pass over all listed states and all tokens; see `seqmix.inspect.certificates.machine` for symbols."""

    def __init__(self, certificate: Certificate, hard: HardModel, automaton: Automaton) -> None:
        proof: Any = certificate.proof
        self.certificate, self.hard, self.automaton = certificate, hard, automaton
        mixer = hard.blocks[-1].mixer
        self.m = mixer.order if hasattr(mixer, "order") else mixer.block_size
        tracked = torch.zeros(hard.sizes[-1] // self.m, dtype=torch.bool)
        tracked[torch.tensor(proof.tracked, dtype=torch.int64)] = True
        self.tracked = tracked.repeat_interleave(self.m)
        self.sizes = [*hard.sizes[:-1], int(self.tracked.sum())]
        self.rows = torch.tensor(proof.states, dtype=torch.int64)
        loose = int((~self.tracked).sum())
        ends = [torch.tensor(values, dtype=torch.float64) for values in (proof.low, proof.high)]
        require(self.rows.ndim == 2 and self.rows.shape[1] == 1 + sum(self.sizes), "its states have another size")
        require(self.rows[0].tolist() == [automaton.start] + [0] * sum(self.sizes), "it does not begin at the start")
        require(all(end.shape == (loose,) for end in ends), "its intervals are of other entries")
        require(not loose or not (len(hard.blocks) > 1 or hard.has_mlp), "intervals do not do for such a model")
        require(certificate.states == len(self.rows), "it miscounts its states")
        require(certificate.tracked_blocks == int(tracked.sum()), "it miscounts its blocks")
        self.low, self.high = (torch.zeros(hard.sizes[-1], dtype=torch.float64) for _ in ends)
        self.low[~self.tracked], self.high[~self.tracked] = ends
        self.used = torch.from_numpy((automaton.step >= 0).any(0))
        info = torch.finfo(next(hard.own.parameters()).dtype)
        # What underflow takes from logits (V,) in units of the standard deviation, and what may be squared, with room.
        self._lost = info.tiny * 2**20 * (hard.sizes_of_head + hard.scaled.shape[1] + 16)
        self._most = info.max / 2**20
        self._tables(proof)

    def _tables(self, proof: Proof) -> None:
        """What every layer does with each of its inputs, and what symbols stand for, (1 + I K,) with 0 first."""
        require(len(proof.origins) == len(self.sizes) - 1, "it does not have the inputs of every layer")
        tokens = torch.arange(len(self.used))
        # A token that cannot come does what one does that can.
        tokens[~self.used] = tokens[self.used][0]
        below = torch.zeros(len(tokens), 0, dtype=torch.int64)
        self.choices: list[Rows] = []
        self.values: list[Tensor] = []
        self.numbers: list[dict[bytes, int]] = []
        for layer in range(len(self.sizes)):
            if layer:
                origins = torch.tensor(proof.origins[layer - 1], dtype=torch.int64)
                require(origins.shape[1:] == (1 + sum(self.sizes[:layer]),), "a layer's inputs have another size")
                tokens, below = origins[:, 0], origins[:, 1:]
                self.numbers.append({row.tobytes(): number for number, row in enumerate(origins.numpy())})
            self.choices.append(self.hard.rows(layer, self._stream(tokens, below, layer)))
            self.values.append(F.pad(self.choices[layer].value.flatten(), (1, 0)))

    def _stream(self, tokens: Tensor, states: Tensor, layers: int) -> Tensor:
        x, begin = self.hard.model.embedding(tokens), 0
        for layer, size in enumerate(self.sizes[:layers]):
            x = self.hard.behind(layer, x, self._meaning(layer, states[:, begin : begin + size]))
            begin += size
        return x

    def _meaning(self, layer: int, symbols: Tensor) -> Tensor:
        return self.values[layer][symbols.abs()] * symbols.sign()

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
        growth = None if several else self._growth(later)  # which checks the gap, with an MLP no more
        growth = None if self.hard.has_mlp else growth
        margins = [self._read(*move, again=again, growth=growth) for move in moves]
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
            columns.append(copied(self._choices(layer, numbers), state, written)[:, here])
            begin += size
        return torch.cat(columns, 1), numbers

    def _choices(self, layer: int, numbers: Tensor) -> Rows:
        return Rows(*(each[numbers] for each in self.choices[layer]))

    def _read(
        self, token: int, before: Tensor, after: Tensor, numbers: Tensor, *, again: bool, growth: Growth | None
    ) -> float:
        """Check intervals and read-outs behind one token, with hard and with soft gates; the smallest margin."""
        choices = self._choices(len(self.sizes) - 1, numbers)
        # Row 0 is the start, where nothing was written, unless a word comes back to it.
        start = (before == 0).unsqueeze(1)
        low = torch.where(start, self.low.clamp_max(0) if again else 0.0, self.low)
        high = torch.where(start, self.high.clamp_min(0) if again else 0.0, self.high)
        ends = torch.stack([copied(choices, low, choices.value), copied(choices, high, choices.value)])
        low, high = ends.amin(0), ends.amax(0)
        inside = ((low >= self.low) & (high <= self.high))[:, ~self.tracked]
        require(bool(inside.all()), f"its intervals are not closed under {token}")
        targets = torch.from_numpy(self.automaton.output[self.rows[before, 0].numpy(), token])
        asked, smallest = (targets != IGNORE).nonzero()[:, 0], float("inf")
        for rows in asked.split(4096) if len(asked) else ():
            states, tokens = after[rows, 1:], torch.full_like(rows, token)
            value, half = (low[rows] + high[rows]) / 2, (high[rows] - low[rows]) / 2
            half[:, self.tracked] = 0
            value[:, self.tracked] = self._meaning(-1, states[:, sum(self.sizes[:-1]) :])
            below = self._stream(tokens, states, len(self.sizes) - 1)
            margins, rounding = self._margins(below, value, half, targets[rows])
            require(bool((margins > rounding).all()), f"a read-out after {token} is wrong, or right by rounding only")
            smallest = min(smallest, float(margins.min()))
            if growth is not None and self.certificate.safe_length:
                margins, rounding = self._margins(below, value, self._softened(growth, value, half), targets[rows])
                message = f"soft gates are not proved up to {self.certificate.safe_length}"
                require(bool((margins > rounding).all()), message)
        return smallest

    def _margins(self, below: Tensor, value: Tensor, half: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """By how much the logits of targets (P,) exceed others (P, V) at least, and how much of that may be rounding.

        Entries are `value` +- `half` (P, K). Rounding is that of n products summed in the model's type.
        """
        hard, block = self.hard, self.hard.blocks[-1]
        x = hard.behind(len(self.sizes) - 1, below, value)
        through = hard.head @ block.mixer.proj_out.weight
        logits = x @ hard.head.T
        sizes = x.abs() if hard.has_mlp else below.abs() + (value.abs() + half) @ block.mixer.proj_out.weight.abs().T
        unit = torch.finfo(next(hard.own.parameters()).dtype).eps * (x.shape[1] + value.shape[1] + 16)
        sums = (sizes + sizes.mean(1, keepdim=True)) @ hard.scaled.abs().T
        rounding = 2 * unit * sums + self._lost * (1 + sizes.amax(1, keepdim=True))
        # The last norm squares, and what it makes is at most 1 / sqrt(eps) times as large.
        largest = torch.maximum(4 * x.shape[1] * sizes.square().amax(), sums.amax() / hard.model.norm.eps**0.5)
        require(bool(largest < self._most), "numbers are so large that the model may overflow")
        margins, doubt = torch.empty_like(logits), torch.empty_like(logits)
        for target in targets.unique():
            rows = targets == target
            margins[rows] = logits[rows][:, target, None] - logits[rows]
            margins[rows] -= half[rows] @ (through[target] - through).abs().T
            doubt[rows] = rounding[rows] + rounding[rows][:, target, None]
            margins[rows, target], doubt[rows, target] = torch.inf, 0
        return margins, doubt

    def _softened(self, growth: Growth, value: Tensor, half: Tensor) -> Tensor:
        """Half widths (P, K) of entries with soft gates at the length that the certificate claims."""
        length = float(self.certificate.safe_length or 0)
        steps = 0.0 if length == float("inf") else length - (self.automaton.bos is None)
        if length == float("inf"):
            require(not growth.first.any() and not growth.later.any(), "soft gates are not hard, as it says")
        error = growth.first + steps * growth.later
        reach = torch.maximum(growth.high - value, value - growth.low) + (1 + steps) * growth.rounding
        return torch.minimum(half + error, torch.maximum(reach, half))

    def _growth(self, later: list[int]) -> Growth:
        """Of a network of one layer, over tokens that may stand first and those that may come `later`."""
        own: Any = self.hard.own
        block, mixer = self.hard.blocks[0], self.hard.blocks[0].mixer
        logits = self.hard.logits(mixer, block.mixer_norm(self.hard.model.embedding.weight))
        signed = getattr(mixer, "normalization", "softmax") == "l1"
        shares = logits.abs() / logits.abs().sum(-1, keepdim=True) if signed else logits.softmax(-1)
        largest = shares.argmax(-1, keepdim=True)
        gap = shares.scatter(-1, largest, 0.0).sum(-1)
        as_run = own.blocks[0].mixer.gates(own.blocks[0].mixer_norm(own.embedding.weight).unsqueeze(1)).squeeze(1).cpu()
        as_run = as_run.double().view_as(logits)
        kept = as_run.gather(-1, largest).squeeze(-1) * (logits.gather(-1, largest).squeeze(-1).sign() if signed else 1)
        exact = ((as_run != 0).sum(-1) == 1).view_as(gap) & (as_run.abs().amax(-1) == 1).view_as(gap)
        first = torch.from_numpy(self.automaton.step[self.automaton.start] >= 0).nonzero()[:, 0].tolist()
        used = sorted({*first, *later})
        claimed = self.certificate.gap
        require(claimed is not None and claimed >= float(gap[used].max()) * (1 - 1e-9), "its gap is too small")
        # Under- and overflow show in the gates as the model has them.
        gap = torch.maximum(gap, 1 - kept - 8 * torch.finfo(own.embedding.weight.dtype).eps)
        value = self.choices[0].value[used].unflatten(1, (-1, self.m))
        high, low = value.amax((0, 2)).clamp_min(0), value.amin((0, 2)).clamp_max(0)
        size = torch.maximum(high, -low)
        low, high = (-size, size) if signed else (low, high)
        rounding = torch.finfo(own.embedding.weight.dtype).eps * (2 * self.m + 16) * size

        def worst(tokens: list[int]) -> Tensor:
            each = torch.where(exact, 0.0, gap * (high - low).unsqueeze(1) + rounding.unsqueeze(1))
            return each[tokens].amax((0, 2)) if tokens else torch.zeros_like(rounding)

        by_block = (worst(first), worst(later), rounding, low, high)
        return Growth(*(values.repeat_interleave(self.m) for values in by_block))
