"""Lightning callbacks; configs name them by class path, `seqmix.training.callbacks.LengthCurriculum`."""

from seqmix.training.callbacks.accuracy_table import AccuracyTable
from seqmix.training.callbacks.averaging import EMAWeights, LAWAWeights
from seqmix.training.callbacks.certify import Certify
from seqmix.training.callbacks.checkpoints import Checkpoints, TrainingInterrupted
from seqmix.training.callbacks.curriculum import LengthCurriculum
from seqmix.training.callbacks.fixed_point_log import FixedPointLog
from seqmix.training.callbacks.gate_entropy import GateEntropyPenalty
from seqmix.training.callbacks.non_finite import NonFiniteGuard, NonFiniteLossError
from seqmix.training.callbacks.optimizer_modes import OptimizerModes
from seqmix.training.callbacks.predictions import PredictionFiles
from seqmix.training.callbacks.progress import StepProgress
from seqmix.training.callbacks.spectrum_recorder import SpectrumRecorder
from seqmix.training.callbacks.stop_when_solved import StopWhenSolved
from seqmix.training.callbacks.volume_restart import VolumeRestart

__all__ = [
    "AccuracyTable",
    "Certify",
    "Checkpoints",
    "EMAWeights",
    "FixedPointLog",
    "GateEntropyPenalty",
    "LAWAWeights",
    "LengthCurriculum",
    "NonFiniteGuard",
    "NonFiniteLossError",
    "OptimizerModes",
    "PredictionFiles",
    "SpectrumRecorder",
    "StepProgress",
    "StopWhenSolved",
    "TrainingInterrupted",
    "VolumeRestart",
]
