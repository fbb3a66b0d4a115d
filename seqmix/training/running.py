"""A request becomes model, data and trainer, made by LightningCLI from one dictionary, and is carried out."""

import importlib
import inspect
import logging
import shutil
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from seqmix._signals import Interrupted
from seqmix.tasks.registry import task_names
from seqmix.training import strategies
from seqmix.training.callbacks import NonFiniteLossError
from seqmix.training.checkpoint_files import write_checkpoints_whole
from seqmix.training.config import runs
from seqmix.training.config.files import SECTIONS, TRAINER, expand
from seqmix.training.loggers import check_loggers
from seqmix.training.module import SequenceLearner
from seqmix.training.pretraining import Pretraining, is_of_pretraining, pretrain
from seqmix.training.request import Request
from seqmix.training.run_callbacks import FirstBatch, SaveConfig, plain

__all__ = ["CommandLine", "run"]


class CommandLine(LightningCLI):
    """Model, data and trainer of a request; `execute` carries it out.

    Lightning's parser is handed one dictionary, checked before, and fills in what it does not say. Tasks and callbacks
    that have names are made here, once: it would bury what is wrong with one. Others' data modules are left to it.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.run_dir: Path | None = None
        self.said = False
        self.pretraining = None if request.pretrain is None else Pretraining.parse(request.pretrain)
        config = expand(request.config)
        ours = {class_path for class_path, _ in SECTIONS.values()}
        entries: list[Any] = config["trainer"]["callbacks"]
        named = [isinstance(entry, dict) and entry.get("class_path") in ours for entry in entries]
        self.sections = [_whole(entry) for entry, own in zip(entries, named, strict=True) if own]
        config["trainer"]["callbacks"] = [entry for entry, own in zip(entries, named, strict=True) if not own]
        # What `config.yaml` has beside what Lightning's parser was handed.
        beside: dict[str, Any] = {"pretrain": request.pretrain}
        task = None
        if not request.print_config and config["data"].get("class_path") in task_names():
            entry = _whole(config.pop("data"))
            task = _made(entry)
            config.setdefault("model", {})["vocab_size"] = task.vocab_size
            beside = {"data": entry} | beside
        strategies.register()
        try:
            super().__init__(
                SequenceLearner,
                None if task is not None else LightningDataModule,
                subclass_mode_data=True,
                trainer_defaults=dict(TRAINER),
                seed_everything_default=0,
                save_config_callback=SaveConfig,
                save_config_kwargs={"sections": self.sections, "beside": beside},
                parser_kwargs={"exit_on_error": False, "prog": "seqmix"},
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                args=config,
                run=False,
            )
        except Exception:
            self.discard_run()
            raise
        self.datamodule = task or self.datamodule

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        if self.datamodule_class is not None:
            parser.link_arguments("data.vocab_size", "model.vocab_size", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        if self.request.print_config:
            config = SaveConfig.content(self.config, self.sections, {"pretrain": self.request.pretrain})
            print(yaml.safe_dump(config, sort_keys=False), end="")
            raise SystemExit(0)
        trainer = self.config["trainer"]
        check_loggers(trainer.get("logger"))
        strategies.check_devices(trainer.get("accelerator"), trainer.get("devices"))
        self.trainer_defaults["callbacks"] = [_made(entry) for entry in self.sections]

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        self.run_dir = runs.new_run(self.request.name, str(self.request.folder) if self.request.folder else None)
        kwargs.setdefault("default_root_dir", str(self.run_dir))
        if self.config_init["trainer"].get("logger") in (None, True):
            kwargs["logger"] = [
                CSVLogger(str(self.run_dir), name="csv", flush_logs_every_n_steps=500),
                TensorBoardLogger(str(self.run_dir), name="tensorboard"),
            ]
        trainer = super().instantiate_trainer(**kwargs)
        write_checkpoints_whole(trainer)
        trainer.callbacks.insert(0, FirstBatch(self._say))  # type: ignore[attr-defined]
        return trainer

    def execute(self) -> None:
        """Carry out the command, and the test after `fit`."""
        command, checkpoint = self.request.command, self.request.checkpoint
        from_stage = checkpoint is not None and command == "fit" and is_of_pretraining(checkpoint)
        if command == "fit":
            self._begin(checkpoint if from_stage else None)
        path = None if checkpoint is None or from_stage else str(checkpoint)
        # The table that Lightning prints of a test is one of ours.
        quiet = {"verbose": False} if command in ("test", "validate") else {}
        getattr(self.trainer, command)(self.model, datamodule=self.datamodule, ckpt_path=path, **quiet)
        if command == "fit" and self.request.test_after_fit != "none" and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._test_after_fit()

    def restoring(self, error: Exception) -> bool:
        """Whether a checkpoint was being taken apart when the trainer ended."""
        read = "resume_start" in {frame.name for frame in traceback.extract_tb(error.__traceback__)}
        return read or bool(self.trainer._checkpoint_connector._loaded_checkpoint)

    @property
    def started(self) -> bool:
        """Whether a batch was taken."""
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        return any(each.taken for each in callbacks if isinstance(each, FirstBatch))

    def discard_run(self) -> None:
        """Remove the folder of a run that never began."""
        if self.run_dir is None or any(self.run_dir.glob("checkpoints/*.ckpt")):
            return
        if self.request.folder is None and runs.is_main_process():
            shutil.rmtree(self.run_dir, ignore_errors=True)

    def _begin(self, stage: Path | None) -> None:
        """Go through the first stage, or on with it from its checkpoint."""
        if self.pretraining is None and stage is not None:
            raise ValueError(
                f"ckpt_path: {stage} was written by pretraining, expected a config with a section pretrain"
            )
        # A run that is continued has been through it.
        if self.pretraining is not None and self.request.checkpoint == stage:
            options = vars(self.config_init["trainer"])
            self._say()
            pretrain(self.model, self.datamodule, self.pretraining, options, str(self.run_dir), stage)

    def _say(self) -> None:
        """Say once what is trained or measured: when the trainer has made everything, since mistakes stand alone."""
        if self.said or not runs.is_main_process():
            return
        self.said = True
        model = self.model.model
        count = sum(p.numel() for p in model.parameters())
        mixers = ", ".join(sorted({type(block.mixer).__name__ for block in model.blocks}))
        where = f"in {self.run_dir}" if self.request.command == "fit" else f"of {self.request.checkpoint}"
        print(
            f"{self.request.name}: {type(self.datamodule).__name__}, {mixers} x {model.n_layers}, d_model "
            f"{model.d_model}, {count:,} parameters, {where}",
            flush=True,
        )

    def _test_after_fit(self) -> None:
        callback: Any = self.trainer.checkpoint_callback
        path = getattr(callback, "best_model_path", "") if self.request.test_after_fit == "best" else None
        if path == "" and runs.is_main_process():
            print("no validation chose a best checkpoint: testing the last weights", flush=True)
        try:
            self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=path or None, verbose=False)
        except Interrupted as stop:
            path = path or getattr(callback, "last_model_path", "")
            again = f"; seqmix test --ckpt_path {path} makes it again" if path else ""
            raise Interrupted(f"{stop} in the test after training{again}") from None


def run(request: Request) -> int:
    """Carry out a request; returns the exit status.

    Mistakes in the arguments are a `ValueError` of one line; an error after the first batch keeps its traceback.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    try:
        command = CommandLine(request)
    except ArgumentError as error:
        raise ValueError(_shortened(str(error))) from None
    except MisconfigurationException as error:
        raise ValueError(" ".join(str(error).split())) from None
    try:
        command.execute()
    except Interrupted as stop:
        if not command.started:
            command.discard_run()
        print(f"seqmix: {stop}", flush=True)
        return 130
    except NonFiniteLossError:
        raise
    except Exception as error:
        if command.started:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            if not isinstance(error, ValueError | MisconfigurationException):
                raise
            traceback.print_exc()
            return 1
        command.discard_run()
        text = " ".join(str(error).split())
        foreign = not isinstance(error, ValueError | MisconfigurationException) or text.startswith("loaded state dict")
        if not foreign:
            raise ValueError(text) from None
        if command.restoring(error) and not isinstance(error, BrokenPipeError):  # nobody reads what it says
            kind = "" if isinstance(error, RuntimeError) else f"{type(error).__name__}: "
            raise ValueError(f"ckpt_path: {request.checkpoint} does not fit this model: {kind}{text}") from None
        raise
    return 0


def _whole(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry of a callback or task with every argument of its class, those that are not given, too."""
    known = inspect.signature(_class(entry)).parameters
    defaults = {name: each.default for name, each in known.items() if each.default is not each.empty}
    return {"class_path": entry["class_path"], "init_args": defaults | (entry.get("init_args") or {})}


def _made(entry: dict[str, Any]) -> Any:
    try:
        return _class(entry)(**entry["init_args"])
    except TypeError as error:
        raise ValueError(f"{_class(entry).__name__}: {error}, got {plain(entry['init_args'])}") from None


def _class(entry: dict[str, Any]) -> Callable[..., Any]:
    module, _, name = entry["class_path"].rpartition(".")
    return getattr(importlib.import_module(module), name)


def _shortened(message: str) -> str:
    # Of a union, jsonargparse lists every member twice, and repeats the whole value.
    message = " ".join(message.split())
    before, errors, after = message.partition(" Errors:")
    value = after.rpartition("Given value:")[2].strip()
    return f"{before}; got {value}" if errors and value and len(value) < 200 else message
