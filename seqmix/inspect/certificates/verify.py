"""`verify`: a certificate checked from the model alone, by other means than those it was made with.

Nothing is searched here. The listed states must contain the start, and whatever a token makes of one of them must be
listed too; the listed intervals must hold what is written and copied; and every read-out must be right. By induction
over its length that is then so after every word. Gates, values and read-outs come from the model's own modules in
float64, one token at a time.
"""

from typing import Any

import numpy as np
import torch

from seqmix.inspect.certificates.closure import Closure
from seqmix.inspect.certificates.hard_model import HardModel, copied, require
from seqmix.inspect.certificates.machine import Machine
from seqmix.inspect.certificates.network import Network, weights_fingerprint
from seqmix.inspect.certificates.prove import automaton_of, certify
from seqmix.inspect.certificates.record import Certificate, CounterExample
from seqmix.inspect.certificates.representations import block_reports, letters_of
from seqmix.models import SequenceModel
from seqmix.tasks.automata import IGNORE, Automaton

__all__ = ["verify"]


@torch.no_grad()
def verify(certificate: Certificate, model: SequenceModel, task: Any) -> None:
    """Check a certificate, or the counter-example of a refusal; return if it holds.

    Worked out again as `certify` does it are the representations that blocks carry and, where the model has an MLP, the
    length that soft gates are proved for; all else is checked independently. Of a refusal are not checked the number of
    states, and that no word shorter than the counter-example is answered wrongly.

    Raises:
        ValueError: it is not of this model or this task, or it does not hold, with what is wrong.
    """
    try:
        _verify(certificate, model, task)
    except (IndexError, TypeError, OverflowError, RuntimeError) as error:
        raise ValueError(f"certificate: it is malformed: {error}") from error


def _verify(certificate: Certificate, model: SequenceModel, task: Any) -> None:
    automaton, network = automaton_of(task), Network.of(model)
    for name, expected, got in (
        ("weights", weights_fingerprint(model), certificate.weights_fingerprint),
        ("task", automaton.fingerprint(), certificate.task_fingerprint),
        ("task", automaton.name, certificate.task),
    ):
        require(expected == got, f"it is of other {name}: expected {expected[:16]}, got {str(got)[:16]}")
    asked, hard = automaton.from_length(certificate.shortest_length), HardModel(model)
    if not certificate.certified:
        require(certificate.counterexample is not None, f"there is nothing to check: {certificate.reason}")
        claims = (certificate.proof, certificate.margin, certificate.gap, certificate.safe_length)
        require(not any(claim is not None for claim in claims), "a refusal proves nothing")
        _check_counterexample(certificate.counterexample, hard, asked)  # type: ignore[arg-type]
        _check_blocks(certificate, network, automaton)
        return
    require(certificate.proof is not None, "it has no proof")
    require(certificate.counterexample is None and certificate.reason is None, "it says why it is none")
    length = certificate.safe_length
    require(length is None or (not isinstance(length, bool) and length >= 0), f"no length can be {length}")
    Closure(certificate, hard, asked).check()
    _check_blocks(certificate, network, automaton)
    if certificate.safe_length and hard.has_mlp:
        again = certify(model, task, max_states=certificate.states, shortest_length=certificate.shortest_length)
        proved = again.safe_length or 0
        require(certificate.safe_length <= proved, f"soft gates are proved up to {proved}, not what it says")


def _check_counterexample(found: CounterExample, hard: HardModel, automaton: Automaton) -> None:
    require(len(found.word) > 0, "its word is empty")
    right = automaton.answers(found.word)[-1]
    states = [torch.zeros(1, size, dtype=torch.float64) for size in hard.sizes]
    for token in found.word:
        x = hard.model.embedding(torch.tensor([token]))
        for layer, state in enumerate(states):
            rows = hard.rows(layer, x)
            states[layer] = copied(rows, state, rows.value)
            x = hard.behind(layer, x, states[layer])
    said = int((x @ hard.head.T).argmax())
    require(
        right != IGNORE and said == found.says and right == found.right and said != right,
        f"after {found.word} the network says {said}, and {right} is right",
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
