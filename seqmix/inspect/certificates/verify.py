"""`verify`: a certificate checked from the model alone.

Nothing is searched here. The listed states must contain the start, and whatever a token makes of one of them must be
listed too; the listed intervals must hold what is written and copied; and every read-out must be right. By induction
over its length that is then so after every word. Gates, values and read-outs come from the model's own modules in
float64, one token at a time; which gate and which logit is largest is decided by the bounds that `certify` goes by.
"""

from typing import Any

import numpy as np
import torch

from seqmix.inspect.certificates.closure import Closure
from seqmix.inspect.certificates.hard_model import HardModel, copied, require
from seqmix.inspect.certificates.machine import Machine
from seqmix.inspect.certificates.network import Network, Undecided, weights_fingerprint
from seqmix.inspect.certificates.prove import automaton_of
from seqmix.inspect.certificates.record import Certificate, CounterExample
from seqmix.inspect.certificates.representations import block_reports, letters_of
from seqmix.models import SequenceModel
from seqmix.tasks.automata import IGNORE, Automaton

__all__ = ["verify"]


@torch.no_grad()
def verify(certificate: Certificate, model: SequenceModel, task: Any) -> None:
    """Check a certificate, or the counter-example of a refusal; return if it holds.

    Worked out again as `certify` does it are the representations that blocks carry. Of a refusal are not checked the
    number of states, and that no word shorter than the counter-example is answered wrongly.

    Raises:
        ValueError: it is not of this model or this task, or it does not hold, with what is wrong.
        NotImplementedError: a task that is no automaton, or parts of a model that are not treated.
    """
    automaton, hard = automaton_of(task), HardModel(model)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            _verify(certificate, hard, automaton)
    except Undecided as undecided:
        raise ValueError(f"certificate: {undecided}") from None
    except (AttributeError, IndexError, KeyError, TypeError, OverflowError, RuntimeError) as error:
        raise ValueError(f"certificate: it is malformed: {error}") from error


def _verify(certificate: Certificate, hard: HardModel, automaton: Automaton) -> None:
    for name, expected, got in (
        ("weights", weights_fingerprint(hard.own), certificate.weights_fingerprint),
        ("task", automaton.fingerprint(), certificate.task_fingerprint),
        ("task", automaton.name, certificate.task),
    ):
        require(expected == got, f"it is of other {name}: expected {expected[:16]}, got {str(got)[:16]}")
    asked = automaton.from_length(certificate.shortest_length)
    require(isinstance(certificate.certified, bool), f"it is certified or not, and not {certificate.certified!r}")
    if not certificate.certified:
        require(certificate.counterexample is not None, f"there is nothing to check: {certificate.reason}")
        claims = (certificate.proof, certificate.margin, certificate.gap, certificate.safe_length)
        require(not any(claim is not None for claim in claims), "a refusal proves nothing")
        _check_counterexample(certificate.counterexample, hard, asked)  # type: ignore[arg-type]
        _check_blocks(certificate, hard.network, automaton)
        return
    require(certificate.proof is not None, "it has no proof")
    require(certificate.counterexample is None and certificate.reason is None, "it says why it is none")
    length = certificate.safe_length
    require(length is None or (not isinstance(length, bool) and length >= 0), f"no length can be {length}")
    Closure(certificate, hard, asked).check()
    _check_blocks(certificate, hard.network, automaton)


def _check_counterexample(found: CounterExample, hard: HardModel, automaton: Automaton) -> None:
    require(len(found.word) > 0, "its word is empty")
    right = automaton.answers(found.word)[-1]
    states = [torch.zeros(2, 1, size, dtype=torch.float64) for size in hard.sizes]  # values and radii
    for token in found.word:
        stream = hard.embed(torch.tensor([token]))
        for layer, (value, radius) in enumerate(states):
            rows, _ = hard.rows(layer, stream)
            states[layer] = torch.stack([copied(rows, value, rows.value), copied(rows, radius, rows.radius).abs()])
            stream = hard.behind(layer, stream, *states[layer])
    require(right != IGNORE and right == found.right, f"after {found.word} the right answer is {right}")
    value, radius = (each[0] for each in hard.margins(stream, torch.tensor([right])))
    # Wrong beyond doubt, and nothing beyond doubt larger.
    wrong = value + radius < 0
    largest = value - radius <= (value + radius).min()
    require(
        0 <= found.says < len(value) and bool((wrong & largest)[found.says]),
        f"after {found.word} the network says {int(value.argmin())}, and {right} is right",
    )
    training, parameter = hard.own.training, next(hard.own.parameters())
    logits = hard.own.eval()(torch.tensor([found.word], device=parameter.device))[0][0, -1]
    hard.own.train(training)
    near = logits.max() - 1e-5 * (logits.max() - logits.min())  # machines may round differently
    require(
        0 <= found.soft_says < len(logits) and bool(logits[found.soft_says] >= near),
        f"with its own gates the network says {int(logits.argmax())}, not {found.soft_says}",
    )


def _check_blocks(certificate: Certificate, network: Network, automaton: Automaton) -> None:
    letters = letters_of(automaton)
    machine = Machine(network, np.flatnonzero((automaton.step >= 0).any(0)))
    blocks = () if letters is None else block_reports(machine, letters)
    require(blocks == certificate.blocks, "its blocks do not carry what it says")
