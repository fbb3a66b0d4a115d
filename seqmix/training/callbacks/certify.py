"""A proof, or a counter-example, for the weights that are tested."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from seqmix._checks import positive
from seqmix._files import write_text_whole

__all__ = ["Certify"]


class Certify(Callback):
    """With every test: is the model with hard gates right on words of every length (`seqmix.inspect.certify`)?

    Prints the answer, writes it as `certificate.json` in the run's folder, where `seqmix certify --verify` checks it
    again, and keeps it without its proof for the record of the run.

    Args:
        max_states: reachable states after which a search is given up.

    Attributes:
        certificate: the last answer as JSON has it, with the blocks that carry a representation; None before a test.

    Raises:
        ValueError: `max_states` is not a positive integer, or the model is no finite automaton.
        NotImplementedError: a task that says of no finite automaton that it is one.
    """

    def __init__(self, max_states: int = 20_000) -> None:
        super().__init__()
        self.max_states = positive("Certify", "max_states", max_states)
        self.certificate: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        from seqmix.inspect.certificates import automaton_of

        automaton_of(trainer.datamodule)  # type: ignore[attr-defined]

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from seqmix.inspect import certify

        # Before `on_test_end`, where records are written.
        if not trainer.is_global_zero:
            return
        task: Any = trainer.datamodule  # type: ignore[attr-defined]
        model: Any = pl_module.model
        found = certify(model, task, max_states=self.max_states)
        content = found.to_dict()
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_text_whole(folder / "certificate.json", json.dumps(content, indent=1) + "\n")
        kept = {key: value for key, value in content.items() if key not in ("format", "version", "proof")}
        blocks = zip(content["blocks"], found.blocks, strict=True)
        self.certificate = kept | {"blocks": [block for block, report in blocks if report.carries]}
        print(f"{found.headline}; {folder / 'certificate.json'}", flush=True)
