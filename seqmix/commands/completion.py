"""`seqmix completion`: what a shell needs to complete commands and the names of configs, mixers, tasks and the like."""

from collections.abc import Callable

from seqmix._suggest import unknown_name
from seqmix.commands._messages import exits
from seqmix.commands._table import COMMANDS
from seqmix.commands.list import NAMES

__all__ = ["main"]

# The words behind a command, as its parser has them.
SUBCOMMANDS = {
    "list": (*NAMES, "parameters"),
    "inspect": ("spectrum", "mixing", "gradient"),
    "leaderboard": ("run", "report", "page", "validate", "rerun", "convert", "schema"),
    "bench": (
        *("kernels", "layers", "decode", "optimizers", "fixed-point", "training", "tasks", "sweep", "numbers"),
        *("sequences", "same-bits", "gpu-report", "report"),
    ),
    "block-law": ("run", "figure"),
    "study": ("list", "run", "report", "papers", "check"),
    "completion": ("bash", "zsh", "fish"),
}
# What the value of an option is one of; files are completed beside.
_OPTIONS = {
    "--config": "configs",
    "--mixer": "mixers",
    "--mixers": "mixers",
    "--data": "tasks",
    "--task": "tasks",
    "--optimizer": "optimizers",
    "--optimizers": "optimizers",
    "--schedule": "schedules",
}
_FIT = ("fit", "validate", "test", "predict")
_OF_FIT = (
    "--config",
    "--mixer",
    "--data",
    "--optimizer",
    "--schedule",
    "--ckpt_path",
    "--run_dir",
    "--seed_everything",
)
_RUNS = ("certify", "generate", "inspect", "sensitivity", "leaderboard")  # take configs, or runs by their config

_HELP = """usage: seqmix completion {bash|zsh|fish}

  bash   eval "$(seqmix completion bash)"      in ~/.bashrc
  zsh    eval "$(seqmix completion zsh)"       in ~/.zshrc, behind compinit
  fish   seqmix completion fish > ~/.config/fish/completions/seqmix.fish

Names are those of this installation: after an update the script is made again."""


@exits()
def main(argv: list[str]) -> int:
    """Run `seqmix completion`; returns the exit status."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_HELP)
        return 0
    if argv[0] not in _SHELLS:
        raise unknown_name("shell", argv[0], _SHELLS)
    if len(argv) > 1:
        raise ValueError(f"seqmix completion: expected one shell, got {' '.join(argv)}")
    print(_SHELLS[argv[0]](), end="")
    return 0


def _names() -> dict[str, str]:
    return {kind: " ".join(each.names()) for kind, each in NAMES.items()}


def _bash() -> str:
    names = _names()
    cases = [f"    {option}) words='{names[kind]}' ;;" for option, kind in _OPTIONS.items()]
    kinds = [f"      'list {kind}') words='{words}' ;;" for kind, words in names.items()]
    behind = [f"      {command}) words='{' '.join(words)}' ;;" for command, words in SUBCOMMANDS.items()]
    return f"""_seqmix() {{
  local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}" words=''
  case "$prev" in
{chr(10).join(cases)}
  esac
  if [ "$COMP_CWORD" = 1 ]; then
    words='{" ".join(COMMANDS)}'
  elif [ -z "$words" ] && [ "$COMP_CWORD" = 2 ]; then
    case "${{COMP_WORDS[1]}}" in
      {"|".join(_FIT)}) words='{" ".join(_OF_FIT)}' ;;
{chr(10).join(behind)}
      {"|".join(sorted({*_RUNS} - {*SUBCOMMANDS}))}) words='{names["configs"]}' ;;
    esac
  elif [ -z "$words" ]; then
    case "${{COMP_WORDS[1]}} ${{COMP_WORDS[2]}}" in
{chr(10).join(kinds)}
      'leaderboard run') words='{names["boards"]} {names["grids"]} {names["configs"]}' ;;
    esac
    case "${{COMP_WORDS[1]}}" in
      {"|".join(_FIT)}) words='{" ".join(_OF_FIT)}' ;;
      inspect|sensitivity) words='{names["configs"]} {names["mixers"]}' ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o default -F _seqmix seqmix
"""


def _zsh() -> str:
    return f"autoload -U +X bashcompinit && bashcompinit\n{_bash()}"


def _fish() -> str:
    names = _names()
    lines = [
        f"complete -c seqmix -n __fish_use_subcommand -f -a {command} -d '{_quoted(each.text)}'"
        for command, each in COMMANDS.items()
    ]
    for command, words in SUBCOMMANDS.items():
        lines.append(f"complete -c seqmix -n '__fish_seen_subcommand_from {command}' -f -a '{' '.join(words)}'")
    for kind, known in names.items():
        seen = f"__fish_seen_subcommand_from list; and __fish_seen_subcommand_from {kind}"
        lines.append(f"complete -c seqmix -n '{seen}' -f -a '{known}'")
    for option, kind in _OPTIONS.items():
        lines.append(f"complete -c seqmix -l {option.removeprefix('--')} -x -a '{names[kind]}'")
    for command in _RUNS:
        lines.append(f"complete -c seqmix -n '__fish_seen_subcommand_from {command}' -a '{names['configs']}'")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return text.replace("'", "\\'")


_SHELLS: dict[str, Callable[[], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
