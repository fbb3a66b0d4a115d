"""`seqmix fit --help` and its like: one screen, and a page for each part of a config."""

from collections.abc import Sequence

from seqmix._suggest import unknown_name
from seqmix.commands._sheets import argument_lines, asked_help
from seqmix.training.config.arguments import section_part
from seqmix.training.config.files import SECTIONS

__all__ = ["train_help"]

_WHAT = {
    "fit": "Train a model on a task, then test it. Results lie in runs/CONFIG/NUMBER.",
    "validate": "Measure a checkpoint on validation data.",
    "test": "Measure a checkpoint at every evaluation length, with a table and a figure.",
    "predict": "Write a checkpoint's answers on the test data to files.",
}
_EXAMPLES = {
    "fit": [
        "--config a5 --mixer.block_size 4 --optimizer.lr 1e-3 --data.group S4 --trainer.max_steps 500",
        "--config a5 --ckpt_path last       continue the newest run",
    ],
    "validate": ["--ckpt_path last                   of the newest run", "--ckpt_path runs/a5/0/checkpoints/best.ckpt"],
    "test": [
        "--config a5 --ckpt_path best       the best checkpoint of the newest run of a5",
        "--ckpt_path runs/a5/0/checkpoints/last.ckpt --data.eval_lengths [64,4096]",
    ],
    "predict": ["--config a5 --ckpt_path best"],
}
_ENTRIES = ("data", "mixer", "optimizer", "schedule", "objective")
_SCREEN = """usage: seqmix {command} --config NAME [--KEY VALUE ...]

{what} An option changes what the config says, and each key of a config is one:

  --config NAME           a shipped config (seqmix list configs) or a file; later ones change earlier ones
  --data NAME             the task, --data.ARGUMENT VALUE what it takes       --help data
  --mixer NAME            the layer, --mixer.ARGUMENT VALUE                   --help mixer
  --model.ARGUMENT VALUE  width, layers, head, ...                            --help model
  --optimizer NAME        --optimizer.lr 1e-3 and so on                       --help optimizer
  --schedule NAME         of the learning rate                                --help schedule
  --objective NAME        what it is trained for: targets, gidd               --help objective
  --trainer.ARGUMENT      steps, devices, precision, loggers, ...             --help trainer
  --CALLBACK.ARGUMENT     or null to leave it out: {callbacks}
                                                                              --help callbacks
  --seed_everything N     of weights and data, 0 by default
  --ckpt_path PATH        a checkpoint; last or best of the newest run
  --run_dir FOLDER        of the run, instead of runs/CONFIG/NUMBER
  --test_after_fit WHICH  weights to test when training is done: last, best or none
  --pretrain.steps N      a first stage on the task's own inputs, also objective, mask_rate, lr
  --trust MODULE          import a module that the config of a run of others names
  --print_config          the config with every default, and nothing else

{examples}
  seqmix {command} --data.help mqar                   what one task takes; so for --mixer.help, --optimizer.help, ..."""


def train_help(command: str, words: Sequence[str]) -> str | None:
    """The text that `--help [PART]` among the words asks for; None where it is not there."""
    at = next((i for i, word in enumerate(words) if word in ("-h", "--help")), None)
    if at is None:
        return None
    part = words[at + 1] if at + 1 < len(words) and not words[at + 1].startswith("-") else None
    if part is None:
        names = [name for name in SECTIONS if name not in ("accuracy_table", "predictions", "progress", "non_finite")]
        callbacks = f"{', '.join(names[:4])},\n{' ' * 26}{', '.join(names[4:])}"
        examples = "\n".join(f"  seqmix {command} {example}" for example in _EXAMPLES[command])
        return _SCREEN.format(command=command, what=_WHAT[command], callbacks=callbacks, examples=examples)
    if part in ("trainer", "model"):
        found = section_part(part)
        lines = [f"{part}, as --{part}.ARGUMENT VALUE or {part}: {{ARGUMENT: VALUE}} in a config:"]
        return "\n".join([*lines, *argument_lines(found.arguments or ())])
    if part in _ENTRIES:
        others = [word for i, word in enumerate(words) if i not in (at, at + 1)]
        return asked_help([*others, f"--{part}.help"])
    if part == "callbacks":
        return "\n\n".join(asked_help([f"--{section}.help"]) or "" for section in SECTIONS)
    if part in SECTIONS:
        return asked_help([f"--{part}.help"])
    raise unknown_name("part of the help", part, ["trainer", "model", "callbacks", *_ENTRIES, *SECTIONS])
