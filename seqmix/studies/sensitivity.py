"""How much the loss minds the learning rate: contenders over one grid of rates, their numbers, table and figure.

Sensitivity is the mean over the grid of min(l, l0) - best, with l the last validation loss at a rate, l0 the loss at
the start of training, and best the smallest of the contender's own losses (Wortsman et al. 2309.14322, section 2.2).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from seqmix._checks import log_grid
from seqmix._extras import require
from seqmix._figures import encode, new_figure, style
from seqmix._markdown import Markup, escaped, markdown_table
from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.sweep.plan import Run, check_count, plan_run
from seqmix.leaderboard.tables.runs import circumstances
from seqmix.training.config.changes import Change
from seqmix.training.config.files import parse_value

__all__ = ["Contender", "Curve", "contenders", "curve", "draw", "table"]

_KINDS = ("optimizer", "mixer")
PLATEAU = 0.1  # share of the way from the best loss to l0


@dataclass(frozen=True)
class Contender:
    """A config with an optimizer and a mixer, and the rates that it is tried at.

    Attributes:
        config: name of a shipped config, or a file.
        overrides: KEY=VALUE on top of it.
        label: what tells it from the others of its panel.
        panel: config and mixer, where there are several.
        rates: learning rates, smallest first.
    """

    config: str
    overrides: tuple[str, ...]
    label: str
    panel: str
    rates: tuple[float, ...]

    def run(self, rate: float, seed: int) -> Run:
        """Its run at one rate."""
        run = plan_run(self.config, (*self.overrides, Change("optimizer.lr", rate)), seed)
        return replace(run, label=" ".join(dict.fromkeys((self.panel or run.name, self.label))))


def contenders(
    configs: Sequence[str],
    optimizers: Sequence[str],
    mixers: Sequence[str],
    rates: tuple[float, float],
    points: int,
    overrides: Sequence[str] = (),
) -> list[Contender]:
    """Every config with every optimizer and every mixer, each on its grid.

    An optimizer or mixer is a name or an entry, `{name: lion, betas: [0.9, 0.98]}`, on top of the config's own. The
    `lr: [LOW, HIGH]` of an optimizer overrules `rates`; with `label` an entry says what it is called.

    Raises:
        ValueError: an entry that is none, or two contenders with one name.
    """
    if points < 2:
        raise ValueError(f"--points: expected at least 2, got {points}")
    check_count(
        "CONFIG x --optimizers x --mixers x --points",
        *map(len, (configs, optimizers or [""])),
        len(mixers or [""]),
        points,
    )
    found = []
    for config in dict.fromkeys(configs):
        for mixer in mixers or [""]:
            for optimizer in optimizers or [""]:
                changes, labels, own = list(overrides), {}, rates
                for kind, text in zip(_KINDS, (optimizer, mixer), strict=True):
                    if text:
                        value = _entry(kind, text)
                        labels[kind] = str(value.pop("label", value["name"]))
                        if kind == "optimizer":
                            own = _range(value.pop("lr", rates))
                        changes.append(Change(kind, value, _flow(value)))
                if not 0 < own[0] < own[1] < math.inf:
                    raise ValueError(f"--lr: expected two positive numbers LOW < HIGH, got {own[0]!r} and {own[1]!r}")
                label = labels.get("optimizer") or labels.get("mixer") or config
                parts = [config] if len(set(configs)) > 1 else []
                parts += [labels["mixer"]] if "mixer" in labels and label != labels["mixer"] else []
                panel = "" if parts == [label] else ", ".join(parts)
                found.append(Contender(config, tuple(changes), label, panel, log_grid(*own, points)))
    names = [(each.panel, each.label) for each in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two contenders are called {name[1]!r}: {{name: ..., label: ...}} tells them apart")
    return found


def _entry(kind: str, text: str) -> dict[str, Any]:
    value = parse_value(text)
    value = {"name": value} if isinstance(value, str) else value
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError(f"--{kind}s: expected a name or {{name: ..., arguments}}, got {text!r}")
    return dict(value)


def _range(value: Any) -> tuple[float, float]:
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(isinstance(v, int | float) for v in value):
        raise ValueError(f"--optimizers: lr of an entry must be [LOW, HIGH], got {value!r}")
    return float(value[0]), float(value[1])


def _flow(entry: dict[str, Any]) -> str:
    # A plain name stays one, so that command lines in records read well.
    yaml = require("yaml", extra="train", owner="seqmix sensitivity")
    if set(entry) == {"name"}:
        return str(entry["name"])
    return str(yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, width=math.inf)).strip()


@dataclass(frozen=True)
class Curve:
    """What the runs of one contender say; `losses` are medians over the seeds of the grid, at most `ceiling`."""

    contender: Contender
    ceiling: float
    losses: dict[float, float]
    broken: frozenset[float]  # rates at which a run diverged or failed
    at_best: tuple[float, ...]  # losses at the best rate, every seed
    runs: tuple[Record, ...] = field(repr=False)

    @property
    def best_rate(self) -> float:
        """The rate with the smallest loss, the smaller one of two."""
        return min(self.losses, key=lambda rate: (self.losses[rate], rate))

    @property
    def best(self) -> float:
        """The smallest loss of the grid."""
        return self.losses[self.best_rate]

    @property
    def learned(self) -> bool:
        """Whether any rate gained more than a share of `PLATEAU` on the loss at the start."""
        return self.best < (1 - PLATEAU) * self.ceiling

    @property
    def sensitivity(self) -> float:
        """Mean excess loss over the grid."""
        return float(np.mean(list(self.losses.values()))) - self.best

    @property
    def plateau(self) -> tuple[float, float]:
        """First and last of the neighbouring rates around the best whose loss is nearly as good."""
        rates = sorted(self.losses)
        limit = self.best + PLATEAU * (self.ceiling - self.best)
        first = last = rates.index(self.best_rate)
        while first > 0 and self.losses[rates[first - 1]] <= limit:
            first -= 1
        while last < len(rates) - 1 and self.losses[rates[last + 1]] <= limit:
            last += 1
        return rates[first], rates[last]

    @property
    def at_edge(self) -> bool:
        """Whether the best rate is the first or last of the grid, so that a better one may lie beyond."""
        return self.best_rate in (min(self.losses), max(self.losses))


def curve(contender: Contender, runs: dict[float, list[Record]], seeds: Sequence[int], ceiling: float | None) -> Curve:
    """The `Curve` of a contender from its runs by rate; only `seeds` count in the grid.

    Args:
        contender: who it is.
        runs: records at each rate of the grid.
        seeds: the seeds of the grid; others were added at the best rate.
        ceiling: l0; None for that of a guess, -log(chance).

    Raises:
        ValueError: a rate without runs, a run that was never validated, or a task without a chance level.
    """
    if ceiling is None:
        chances = {r["result"]["chance"] for each in runs.values() for r in each if r["status"] == "ok"}
        if len(chances) != 1 or None in chances:
            raise ValueError(
                f"--ceiling: expected the loss at the start of training, {contender.config} has no one chance level"
            )
        ceiling = -math.log(chances.pop())
    losses, broken = {}, set()
    for rate in contender.rates:
        grid = [run for run in runs.get(rate, []) if run["identity"]["seed"] in seeds]
        if not grid:
            raise ValueError(f"{contender.label}: no run at learning rate {rate:g}")
        losses[rate] = float(np.median([_loss(run, ceiling) for run in grid]))
        if any(run["status"] != "ok" or run["result"]["diverged"] for run in grid):
            broken.add(rate)
    every = tuple(run for each in runs.values() for run in each)
    first = Curve(contender, ceiling, losses, frozenset(broken), (), every)
    at_best = tuple(_loss(run, ceiling) for run in runs[first.best_rate])
    return Curve(contender, ceiling, losses, frozenset(broken), at_best, every)


def _loss(run: Record, ceiling: float) -> float:
    if run["status"] != "ok" or run["result"]["diverged"]:
        return ceiling
    if not run["result"]["curve"]:
        raise ValueError(
            f"run {run['id']} ({run['identity']['config']}) was never validated; set trainer.val_check_interval to at "
            "most the number of steps"
        )
    loss = run["result"]["curve"][-1]["loss"]
    return ceiling if loss is None else min(ceiling, float(loss))


def table(curves: Sequence[Curve]) -> str:
    """A Markdown table for each panel, a row for each contender, the smallest best loss first."""
    parts = []
    for panel in dict.fromkeys(each.contender.panel for each in curves):
        mine = [each for each in curves if each.contender.panel == panel]
        mine.sort(key=lambda each: (not each.learned, each.best))
        parts += [f"**{escaped(panel)}**"] * bool(panel) + [markdown_table(_HEADER, [_row(each) for each in mine])]
    ceilings = ", ".join(dict.fromkeys(f"{each.ceiling:.3g}" for each in curves))
    edge = " * At an end of the grid." if any(each.learned and each.at_edge for each in curves) else ""
    none = "" if all(each.learned for each in curves) else f" Not learned: no rate gained {PLATEAU:.0%} on that loss."
    parts.append(
        f"Last validation loss in nats, one grid of rates at equal ratios each. Sensitivity: mean over the grid of "
        f"min(loss, {ceilings}) - best, {ceilings} being the loss at the start of training; diverged runs count with "
        f"it. Plateau: neighbouring rates within {PLATEAU:.0%} of the way from the best loss to that.{edge}{none} "
        + circumstances([run for each in curves for run in each.runs])
    )
    return "\n\n".join(parts)


_HEADER = ["", "learning rates", "best rate", "best loss", "median over seeds (range; seeds)", "median loss"]
_HEADER += ["sensitivity", "plateau", "decades", "diverged"]


def _row(each: Curve) -> list[str]:
    low, high = each.plateau
    rates, seeds = sorted(each.losses), sorted(each.at_best)
    spread = f"{np.median(seeds):.4f} ({seeds[0]:.4f} to {seeds[-1]:.4f}; {len(seeds)})" if len(seeds) > 1 else ""
    grid = [each.contender.label, f"{len(rates)}, {rates[0]:g} to {rates[-1]:g}"]
    losses = [f"{each.best:.4f}", spread, f"{np.median(list(each.losses.values())):.4f}"]
    broken = f"{len(each.broken)} of {len(rates)}"
    if not each.learned:  # a flat line at chance has no best rate, and minds none
        return [*grid, "– not learned", *losses, "–", "–", "–", broken]
    return [
        *grid,
        Markup(f"{each.best_rate:g}{' *' * each.at_edge}"),
        *losses,
        f"{each.sensitivity:.4f}",
        f"{low:g} to {high:g}",
        f"{math.log10(high / low):.1f}",
        broken,
    ]


def draw(curves: Sequence[Curve], kind: str) -> bytes:
    """Loss against learning rate, a line for each contender and axes for each panel, as `svg` or `png`.

    The same records give the same file. A cross is a rate at which a run diverged.
    """
    panels = list(dict.fromkeys(each.contender.panel for each in curves))
    labels = list(dict.fromkeys(each.contender.label for each in curves))
    with style("seqmix sensitivity --figure"):
        figure = new_figure(5.2 * len(panels) + 1.6, 4.2)
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for ax, panel in zip(axes, panels, strict=True):
            for each in curves:
                if each.contender.panel != panel:
                    continue
                rates, color = sorted(each.losses), f"C{labels.index(each.contender.label)}"
                ax.plot(rates, [each.losses[rate] for rate in rates], "o-", color=color, label=each.contender.label)
                bad = sorted(each.broken)
                ax.plot(bad, [each.losses[rate] for rate in bad], "x", color=color, markersize=10)
                ax.axhline(each.ceiling, color="0.7", linestyle=":", linewidth=1)
            ax.set(xscale="log", xlabel="learning rate", title=panel)
            ax.grid(alpha=0.3)
        axes[0].set_ylabel("validation loss, nats")
        axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize="small")
        return encode(figure, kind)
