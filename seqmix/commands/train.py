"""`seqmix fit|validate|test|predict`: LightningCLI with registry entries, configs by name and a folder for each run."""

import logging
import shutil
import traceback
import warnings
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError, Namespace
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from seqmix._signals import Interrupted
from seqmix._trust import import_trusted, links_out
from seqmix.commands._messages import exits, silence
from seqmix.commands._train_help import HELP
from seqmix.tasks.registry import list_tasks
from seqmix.training import strategies
from seqmix.training.callbacks import NonFiniteLossError
from seqmix.training.checkpoint_files import write_checkpoints_whole
from seqmix.training.config import files as config_files
from seqmix.training.config import runs
from seqmix.training.config.options import check_classes, check_intervals, check_keys, read_options
from seqmix.training.continuing import check_value
from seqmix.training.foreign import check_settings, modules_named
from seqmix.training.loggers import check_loggers
from seqmix.training.module import SequenceLearner
from seqmix.training.pretraining import Pretraining, is_of_pretraining, pretrain
from seqmix.training.run_callbacks import FirstBatch, SaveConfig, plain

__all__ = ["CommandLine", "main"]

# What a run that goes on takes from its checkpoint, and no checkpoint says; with defaults.
_KEPT_BY_RUNS: dict[str, Any] = {"seed_everything": 0, "pretrain": None}


class CommandLine(LightningCLI):
    """One command; `execute` runs it after everything was parsed and built."""

    def __init__(self, args: list[str]) -> None:
        self.name = "run"
        self.run_dir: Path | None = None
        self._requested: Path | None = None
        strategies.register()
        try:
            super().__init__(
                SequenceLearner,
                LightningDataModule,
                subclass_mode_data=True,
                trainer_defaults=dict(config_files.TRAINER),
                seed_everything_default=0,
                save_config_callback=SaveConfig,
                parser_kwargs={
                    "exit_on_error": False,
                    "prog": "seqmix",
                    **{name: dict(HELP) for name in self.subcommands()},
                },
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                args=args,
            )
        except Exception:
            self.discard_run()
            raise

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data.vocab_size", "model.vocab_size", apply_on="instantiate")
        parser.add_argument(
            "--run_dir", type=str | None, default=None, help="Folder of the run; runs/CONFIG/NUMBER by default."
        )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "fit":
            parser.add_argument(
                "--test_after_fit",
                type=Literal["last", "best", "none"],
                default="last",
                help="Weights to test when training is done: the last ones, the best on validation data, or none.",
            )
            parser.add_argument(
                "--pretrain",
                type=dict[str, Any] | None,
                default=None,
                help="A first stage on the task's own inputs: {steps: 500, objective: masked or causal, mask_rate: "
                "0.5, lr: 1e-3}, or --pretrain.steps 500 and so on.",
            )
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        subcommand, *options = args
        if subcommand not in self._subcommand_parsers or {"-h", "--help"} & set(options):
            self.config = parser.parse_args(args)
            return
        subparser = self._subcommand_parsers[subcommand]
        config, changes, rest, paths = read_options(options, subparser)
        import_trusted(paths["trust"])
        self._locate(subcommand, paths)
        made = _made_with(self.checkpoint)
        if made is not None and (not paths["config"] or paths["ckpt_path"] in (None, "last", "best")):
            # A run goes on with what it was made with: `--config NAME` then says which run, options change it.
            trust = {*paths["trust"], *modules_named(config)}
            check_settings(made, trust, f"config.yaml of the run of {self.checkpoint}")
            config = made
        for key, value in changes:
            config = config_files.set_by_path(config, key, value)
        if subcommand == "fit" and made is not None:
            for key in _KEPT_BY_RUNS:
                check_value(key, *(each.get(key, _KEPT_BY_RUNS[key]) for each in (made, config)))
        if "data" not in config and "--print_config" not in rest:
            raise ValueError(f"data: expected a task ({', '.join(list_tasks())}) or a --config that has one, got none")
        if subcommand != "fit":
            config.pop("test_after_fit", None)
            config.pop("pretrain", None)
        elif config.get("pretrain") is not None:
            Pretraining.parse(config["pretrain"])
        config = config_files.expand(config)
        if config["trainer"].get("default_root_dir") or any("default_root_dir" in option for option in rest):
            raise ValueError("trainer.default_root_dir: a run has its folder from --run_dir, or runs/CONFIG/NUMBER")
        check_keys(config, subparser)
        check_classes(config)
        # As the parser's own `--config` reads a file: what is wrong is told when the options have been read, too.
        given = subparser.parse_object(config, env=False, defaults=False, _skip_validation=True, _skip_required=True)
        self.config = parser.parse_args([subcommand, *rest], namespace=Namespace({subcommand: given}))
        self.config[subcommand].pop("config", None)
        check_intervals(vars(self.config[subcommand]["trainer"]))
        check_loggers(self.config[subcommand]["trainer"].get("logger"))

    def _locate(self, subcommand: str, paths: dict[str, Any]) -> None:
        # A resumed run continues in its own folder; tests write beside the checkpoint that they test.
        if paths["config"]:
            self.name = Path(paths["config"][-1]).stem
        which = paths["ckpt_path"] or (None if subcommand == "fit" else "last")
        self.checkpoint = None
        if which is not None:
            also = ("pretraining",) if subcommand == "fit" and which == "last" else ()
            name = self.name if paths["config"] else None
            self.checkpoint = runs.find_checkpoint(which, name, paths["run_dir"], also=also)
        run = runs.run_of(self.checkpoint) if self.checkpoint is not None else None
        self._requested = Path(paths["run_dir"]) if paths["run_dir"] else run
        if self.checkpoint is not None and self._requested is not None:
            for link in links_out(self._requested):  # what is written there would go where it leads
                raise ValueError(f"ckpt_path: {link} is a link that leads out of the folder of the run")
        if run is not None and not paths["config"]:
            self.name = run.parent.name
        if self.checkpoint is None and self._requested and any(self._requested.glob("checkpoints/*.ckpt")):
            raise ValueError(
                f"run_dir: {self._requested} has checkpoints; --ckpt_path last continues that run, a new one needs "
                "another folder"
            )

    def _parse_ckpt_path(self) -> None:
        """Overrides Lightning: configs come from config files, never half from a checkpoint."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        self.run_dir = runs.new_run(self.name, str(self._requested) if self._requested else None)
        kwargs.setdefault("default_root_dir", str(self.run_dir))
        if self._get(self.config_init, "trainer").get("logger") in (None, True):
            loggers = [
                CSVLogger(str(self.run_dir), name="csv", flush_logs_every_n_steps=500),
                TensorBoardLogger(str(self.run_dir), name="tensorboard"),
            ]
            kwargs.setdefault("logger", loggers if self.subcommand == "fit" else False)
        trainer = super().instantiate_trainer(**kwargs)
        write_checkpoints_whole(trainer)
        trainer.callbacks.insert(0, FirstBatch())  # type: ignore[attr-defined]
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        """Left to `execute`, so that mistakes in the configuration are told from errors while running."""

    def execute(self) -> None:
        """Run the subcommand, and the test after `fit`."""
        assert self.subcommand is not None
        if self.checkpoint is not None and not self._goes_on_pretraining:
            self.config_init[self.subcommand]["ckpt_path"] = str(self.checkpoint)
        super()._run_subcommand(self.subcommand)

    @property
    def _goes_on_pretraining(self) -> bool:
        return self.subcommand == "fit" and self.checkpoint is not None and is_of_pretraining(self.checkpoint)

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
        if self._requested is None and runs.is_main_process():
            shutil.rmtree(self.run_dir, ignore_errors=True)

    def before_fit(self) -> None:
        if runs.is_main_process():
            model = self.model.model
            count = sum(p.numel() for p in model.parameters())
            mixers = ", ".join(sorted({type(block.mixer).__name__ for block in model.blocks}))
            print(
                f"{self.name}: {type(self.datamodule).__name__}, {mixers} x {model.n_layers}, d_model {model.d_model}, "
                f"{count:,} parameters, in {self.run_dir}",
                flush=True,
            )

        section = self.config["fit"]["pretrain"]
        stage = self.checkpoint if self._goes_on_pretraining else None
        if section is None and stage is not None:
            raise ValueError(
                f"ckpt_path: {stage} was written by pretraining, expected a config with a section pretrain"
            )
        if section is not None and self.checkpoint == stage:  # a run that is continued has been through it
            options, trainer = Pretraining.parse(plain(section)), vars(self.config_init["fit"]["trainer"])
            pretrain(self.model, self.datamodule, options, trainer, str(self.run_dir), stage)

    def after_fit(self) -> None:
        which = self.config["fit"]["test_after_fit"]
        if which == "none" or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        callback: Any = self.trainer.checkpoint_callback
        path = getattr(callback, "best_model_path", "") if which == "best" else None
        if path == "" and runs.is_main_process():
            print("no validation chose a best checkpoint: testing the last weights", flush=True)
        try:
            self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=path or None, verbose=False)
        except Interrupted as stop:
            path = path or getattr(callback, "last_model_path", "")
            again = f"; seqmix test --ckpt_path {path} makes it again" if path else ""
            raise Interrupted(f"{stop} in the test after training{again}") from None

    def validate(self, **kwargs: Any) -> None:
        """As `test`, for the table of validation data."""
        self.trainer.validate(**{**kwargs, "verbose": False})

    def test(self, **kwargs: Any) -> None:
        """Replaces the trainer's own, whose printed table `AccuracyTable` makes superfluous."""
        self.trainer.test(**{**kwargs, "verbose": False})


@exits()
def main(argv: list[str]) -> int:
    """Run one of Lightning's subcommands; returns the exit status.

    Mistakes in the arguments are told in one line; an error after the first batch keeps its traceback.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    try:
        command = CommandLine(argv)
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
            if isinstance(error, BrokenPipeError):
                silence()
                return 141
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
        if command.restoring(error):
            kind = "" if isinstance(error, RuntimeError) else f"{type(error).__name__}: "
            raise ValueError(f"ckpt_path: {command.checkpoint} does not fit this model: {kind}{text}") from None
        raise
    return 0


def _made_with(checkpoint: Path | None) -> config_files.Config | None:
    """The config of the run that a checkpoint lies in."""
    run = None if checkpoint is None else runs.run_of(checkpoint)
    path = None if run is None else run / "config.yaml"
    return config_files.load_config(str(path), within=run) if path is not None and path.is_file() else None


def _shortened(message: str) -> str:
    # Of a union, jsonargparse lists every member twice, and repeats the whole value.
    message = " ".join(message.split())
    before, errors, after = message.partition(" Errors:")
    value = after.rpartition("Given value:")[2].strip()
    return f"{before}; got {value}" if errors and value and len(value) < 200 else message
