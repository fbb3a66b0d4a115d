"""Certificates: a trained model that is proved right for every length, or a word that it answers wrongly."""

from seqmix.inspect.certificates.prove import automaton_of, certify
from seqmix.inspect.certificates.record import Certificate, CounterExample
from seqmix.inspect.certificates.representations import BlockReport
from seqmix.inspect.certificates.verify import verify

__all__ = ["BlockReport", "Certificate", "CounterExample", "automaton_of", "certify", "verify"]
