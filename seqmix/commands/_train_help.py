"""What `seqmix fit --help` and its like say first."""

from seqmix.training.config import files as config_files

__all__ = ["HELP"]

HELP = {
    "description": "Options change what --config NAME says. Entries: --mixer NAME, --mixer.ARGUMENT VALUE, and the "
    "same for --optimizer, --schedule and --data (a task). Callbacks: --curriculum.start 2, --gate_entropy null; also "
    + ", ".join(f"--{section}" for section in config_files.SECTIONS if section not in ("curriculum", "gate_entropy"))
    + ". With --ckpt_path, --trust MODULE imports a module that the config of that run names."
}
