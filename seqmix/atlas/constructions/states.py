"""PD-SSM, LSTM and the fixed-point RNN whose b sees the state: the automaton's state as a one-hot vector."""

import math
from typing import Any

import numpy as np

from seqmix.atlas.constructions.cell import Cell, Plan
from seqmix.atlas.frame import ones, write
from seqmix.models import SequenceModel

__all__ = ["UNBUILT", "fp_rnn", "lstm", "pd_ssm"]

_MOST_UNITS = 4096  # weights of an LSTM of so many are 270 MB
UNBUILT = "; too many for `construct` to write them out"
_T = math.tanh(1)


def pd_ssm(cell: Cell) -> Plan | None:
    """One entry of a dictionary for each letter sends every state where the automaton does; magnitudes are one."""
    q, letters = cell.core.n_states, cell.letters
    size, entries = cell.given("d_state", q), cell.given("n_transitions", letters + 1)
    if size is None or entries is None:
        return None

    def build() -> SequenceModel:
        frame = cell.frame(q)
        spec = cell.spec(d_state=size, n_transitions=entries)
        model = frame.model(spec, *cell.head(cell.one_hot(), q))
        layer: Any = model.mixers[0]
        choose = np.zeros((entries, letters + 1))
        choose[: letters + 1] = 150 * np.eye(letters + 1)
        dictionary = np.tile(np.eye(size), (entries, 1, 1))
        for x in range(letters):
            dictionary[x, :, :q] = np.arange(size)[:, None] == cell.core.step[:, x]
        write(layer.select_proj.weight, frame.tokens(cell.table(choose)))
        write(layer.dictionary, dictionary)
        write(layer.magnitude[2].bias, np.full(size, 30.0))
        write(layer.phase[2].bias, np.full(size, -150.0))
        write(layer.out_proj.weight, frame.outputs(np.eye(q, 2 * size)))
        return model

    return Plan(
        "gathers", "each letter sends entries where the automaton sends its states", "the state, one-hot",
        "every length, in float32 as over the reals", True, build,
    )  # fmt: skip


def _units(cell: Cell) -> np.ndarray:
    """Units for a state before and a letter, and one for the BOS: which lead to each state (Q, units)."""
    leads = np.append(cell.core.step.ravel(), 0)
    return (leads == np.arange(cell.core.n_states)[:, None]).astype(np.float64)


def _width(cell: Cell) -> tuple[np.ndarray, int, int | None]:
    """The units, how many they are, and how many the layer has; None if it was given fewer."""
    into = _units(cell)
    return into, into.shape[1], cell.given("d_state", into.shape[1])


def _check_size(mixer: str, size: int) -> None:
    if size > _MOST_UNITS:
        raise ValueError(f"construct: {mixer} would need {size:,} units here, more than {_MOST_UNITS:,}")


def _unbuilt(size: int) -> str:
    return UNBUILT if size > _MOST_UNITS else ""


def lstm(cell: Cell) -> Plan | None:
    """Unit (q, x) is on where the state was q and the letter is x: i and o are open, f is shut, g = tanh(20 (...))."""
    q, letters = cell.core.n_states, cell.letters
    into, n, size = _width(cell)
    if size is None:
        return None

    def build() -> SequenceModel:
        _check_size("lstm", size)
        frame = cell.frame(q)
        logits, constants = cell.head(cell.one_hot(), q)
        # A state is on if the sum of (h / t + 1) / 2 is, of which 1 / 2 a unit is constant.
        constants = np.where(np.isfinite(constants), logits @ (into.sum(1) / 2), constants)
        model = frame.model(cell.spec(d_state=size), logits, constants)
        layer: Any = model.mixers[0]
        # Sums over units that lead to q of (h / t + 1) / 2, which is one if and only if the state was q.
        before, count = np.repeat(into, letters, 0), into.sum(1).repeat(letters)
        g_hh, g_ih = np.zeros((size, size)), np.zeros((size, letters + 1))
        bias = np.full(size, -20.0)
        g_hh[: n - 1, :n] = 20 * before / (2 * _T)
        g_ih[: n - 1, :letters] = 20 * np.tile(np.eye(letters), (q, 1))
        # Before the first token no unit is on or off.
        g_ih[:, letters] = -20 * (n + 2)
        g_ih[n - 1, letters] = 20
        bias[: n - 1], bias[n - 1] = 20 * (count / 2 - 1.5), -10
        shut, opened = np.full(size, -30.0), np.full(size, 30.0)
        zeros = np.zeros((size, size))
        write(layer.weight_hh, np.concatenate([zeros, zeros, g_hh, zeros]))
        none = np.zeros((size, letters + 1))
        write(layer.weight_ih, frame.tokens(cell.table(np.concatenate([none, none, g_ih, none]))))
        write(layer.bias, np.concatenate([opened, shut, bias, opened]))
        out = np.zeros((q, size))
        out[:, :n] = into / 2 / _T
        write(layer.out_proj.weight, frame.outputs(out))
        return model

    return Plan(
        "one unit on", f"{n} units, one for each state before and letter{_unbuilt(size)}",
        "one unit at tanh 1, the others at -tanh 1",
        "every length, in float32 as over the reals: units are saturated", True, build,
    )  # fmt: skip


def fp_rnn(cell: Cell) -> Plan | None:
    """The same units with h = b, b = silu(20 (...)), which sees h over its root mean square."""
    o = cell.mixer.options
    seen = o["hidden_dependence"]
    if o["write"] != "b" or o["output_gate"] or cell.mixer.sizes.get("rank", 0) != 0 or not o["normalize_hidden"]:
        return None
    if seen is None or "b" not in seen or o["mixing"].startswith("kronecker") or o["max_radius"] is not None:
        return None
    q, letters = cell.core.n_states, cell.letters
    into, n, size = _width(cell)
    if size is None:
        return None

    def build() -> SequenceModel:
        _check_size("fp-rnn", size)
        frame = cell.frame(q)
        model = frame.model(cell.spec(d_state=size, rank=0), *cell.head(cell.one_hot(), q))
        layer: Any = model.mixers[0]
        # The only unit that is on is at 10, and at sqrt(N) over the root mean square.
        at = 10 / math.sqrt(100 / size + 0.0625)
        b_hidden, b_in, bias = np.zeros((size, size)), np.zeros((size, letters + 1)), np.full(size, -60.0)
        b_hidden[: n - 1, :n] = 20 * np.repeat(into, letters, 0) / at
        b_in[: n - 1, :letters] = 20 * np.tile(np.eye(letters), (q, 1))
        b_in[n - 1, letters] = 70
        bias[: n - 1] = -30
        parts = [name for name in ("lambda", "b") if name in seen]
        hidden = np.concatenate([b_hidden if name == "b" else np.zeros_like(b_hidden) for name in parts])
        write(layer.weight_hidden, np.pad(hidden, ((0, len(layer.weight_hidden) - len(hidden)), (0, 0))))
        table = np.concatenate([np.zeros((size, letters + 1)), b_in])
        write(layer.proj_in.weight, frame.tokens(cell.table(table)))
        write(layer.proj_in.bias, np.concatenate([np.full(size, -40.0), bias]))
        ones(layer.weight_norm)
        out = np.zeros((q, size))
        out[:, :n] = into / math.sqrt(size)
        write(layer.proj_out.weight, frame.outputs(out))
        return model

    return Plan(
        "one unit on", f"{n} units, one for each state before and letter, lambda shut{_unbuilt(size)}",
        "one unit at 10, others at 0",
        "every length, in float32 as over the reals: units are far apart", True, build,
    )  # fmt: skip
