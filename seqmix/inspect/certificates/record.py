"""What was found of a model: a certificate, or why there is none."""

from dataclasses import asdict, dataclass, field
from typing import Any

from seqmix.inspect.certificates.representations import BlockReport

__all__ = ["Certificate", "CounterExample", "Proof"]


@dataclass(frozen=True)
class CounterExample:
    """A word, BOS included, whose last token the hard network answers wrongly.

    `shortest`: no shorter word is answered wrongly. `soft_says` is the answer of the model with its own gates.
    """

    word: list[int]
    says: int
    right: int
    soft_says: int
    shortest: bool


@dataclass(frozen=True, repr=False)
class Proof:
    """What a certificate is checked from.

    tracked: blocks of the last layer whose contents the states hold. states: reachable states, the start first, each
    the state of the task and then the symbols of the network. origins: for each layer but the first the inputs that its
    symbols name, each a token and the symbols of the layers below. low and high: intervals of all other entries.
    classes and ends: where values are taken for one, the class of what each token writes to each entry that is tracked,
    and the lows and highs of classes, that of zero first; symbols then are their numbers.
    """

    tracked: list[int]
    states: list[list[int]]
    origins: list[list[list[int]]]
    low: list[float]
    high: list[float]
    classes: list[list[int]] | None = None
    ends: list[list[float]] | None = None


@dataclass(frozen=True)
class Certificate:
    """What `certify` has found of a model whose gates are replaced by their largest.

    Attributes:
        certified: that network answers every word of the task rightly, whatever its length.
        reason: why not, in words; None if certified.
        counterexample: a word that it answers wrongly, if one is known.
        states: reachable states of network and task together, as far as blocks are tracked; those found if stopped.
        tracked_blocks: how many blocks of the last layer the states hold; the others are bounded by intervals.
        margin: smallest difference between the right logit and another over all read-outs, less every doubt, in units
            of the standard deviation that the last norm divides by.
        gap: largest sum of gates that were not chosen; None for more than one layer.
        safe_length: words up to this length the model answers rightly with its own gates too, as it runs; infinity for
            every length, None where nothing is proved.
        blocks: what each block of the first layer does with the letters; empty for a task without a group.
        shortest_length: answers are asked for from this length on.
        task, task_fingerprint, weights_fingerprint: what was certified.
        proof: what `verify` checks; None without a certificate.
    """

    certified: bool
    reason: str | None
    counterexample: CounterExample | None
    states: int
    tracked_blocks: int
    margin: float | None
    gap: float | None
    safe_length: float | int | None
    blocks: tuple[BlockReport, ...]
    shortest_length: int
    task: str
    task_fingerprint: str
    weights_fingerprint: str
    proof: Proof | None = field(repr=False, default=None)

    @property
    def headline(self) -> str:
        """What is proved of the network as it was trained, and only then of the one with hard gates."""
        if not self.certified:
            return f"your network: nothing proved; with its gates hardened: not certified, {self.reason}"
        own = "nothing proved, it has several layers"
        if self.safe_length is not None:
            every = self.safe_length == float("inf")
            own = "proved for every length" if every else f"proved up to length {self.safe_length:,}"
        least = f" of {self.shortest_length} and more" if self.shortest_length > 1 else ""
        return f"your network: {own}; with its gates hardened: every length{least}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it, with `every length` for infinity."""
        result = asdict(self)
        result["blocks"] = [report._asdict() for report in self.blocks]
        if self.safe_length == float("inf"):
            result["safe_length"] = EVERY
        return {"format": FORMAT, "version": VERSION, **result}

    @classmethod
    def from_dict(cls, content: Any) -> "Certificate":
        """Back from `to_dict`; `ValueError` for anything else."""
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"certificate: expected JSON with format {FORMAT!r}, got {str(content)[:60]!r}")
        if content.get("version") != VERSION:
            raise ValueError(f"certificate: expected version {VERSION}, got {content.get('version')!r}")
        fields = {key: value for key, value in content.items() if key not in ("format", "version")}
        try:
            if fields["safe_length"] == EVERY:
                fields["safe_length"] = float("inf")
            fields["blocks"] = tuple(BlockReport(**report) for report in fields["blocks"])
            if fields["counterexample"] is not None:
                fields["counterexample"] = CounterExample(**fields["counterexample"])
            if fields["proof"] is not None:
                fields["proof"] = Proof(**fields["proof"])
            return cls(**fields)
        except (KeyError, TypeError) as error:
            raise ValueError(f"certificate: not one that seqmix certify writes: {error}") from None


FORMAT, VERSION, EVERY = "seqmix-certificate", 1, "every length"
