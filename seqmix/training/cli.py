"""`seqmix fit|validate|test|predict`: LightningCLI with registry entries, configs by name and a folder for each run."""

import logging
import shutil
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentError, Namespace
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from seqmix._files import write_whole
from seqmix._trust import import_trusted, links_out
from seqmix.tasks.registry import list_tasks
from seqmix.training import config_files, runs, strategies
from seqmix.training.callbacks import NonFiniteLossError, TrainingInterrupted
from seqmix.training.foreign import check_settings, modules_named
from seqmix.training.module import SequenceLearner
from seqmix.training.options import check_classes, check_keys, read_options
from seqmix.training.pretraining import Pretraining, pretrain

__all__ = ["CommandLine", "main"]

_KEPT = (
    "seed_everything",
    "trainer",
    "model",
    "data",
    "pretrain",
)  # of a run's config.yaml, which every subcommand reads
_HELP = {
    "description": "Options change what --config NAME says. Entries: --mixer NAME, --mixer.ARGUMENT VALUE, and the "
    "same for --optimizer, --schedule and --data (a task). Callbacks: --curriculum.start 2, --gate_entropy null; also "
    + ", ".join(f"--{section}" for section in config_files.SECTIONS if section not in ("curriculum", "gate_entropy"))
    + ". With --ckpt_path, --trust MODULE imports a module that the config of that run names."
}


class SaveConfig(SaveConfigCallback):
    """Writes `config.yaml` in the folder of the run, as a config that `--config` takes."""

    def __init__(self, parser: LightningArgumentParser, config: Any, **kwargs: Any) -> None:
        super().__init__(parser, config, save_to_log_dir=False, **kwargs)

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Left to `on_train_start`: until a checkpoint has loaded, the config of its run must stay."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            self.save_config(trainer, pl_module, "fit")

    def save_config(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        # Nulls are kept: they are not everywhere the default.
        text = yaml.safe_dump({key: _plain(self.config[key]) for key in _KEPT if key in self.config}, sort_keys=False)
        Path(trainer.default_root_dir).mkdir(parents=True, exist_ok=True)
        write_whole(Path(trainer.default_root_dir) / "config.yaml", lambda path: path.write_text(text))


def _plain(value: Any) -> Any:
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


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
                    **{name: dict(_HELP) for name in self.subcommands()},
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
        if self.checkpoint is not None and (not paths["config"] or paths["ckpt_path"] in (None, "last", "best")):
            # A run goes on with what it was made with: `--config NAME` then says which run, options change it.
            run = runs.run_of(self.checkpoint)
            if run is not None and (run / "config.yaml").is_file():
                trust = {*paths["trust"], *modules_named(config)}
                config = config_files.load_config(str(run / "config.yaml"), within=run)
                check_settings(config, trust, str(run / "config.yaml"))
        for key, value in changes:
            config = config_files.set_by_path(config, key, value)
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
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "config.yaml"
            path.write_text(yaml.safe_dump(config))
            self.config = parser.parse_args([subcommand, "--config", str(path), *rest])
        self.config[subcommand].pop("config", None)

    def _locate(self, subcommand: str, paths: dict[str, Any]) -> None:
        # A resumed run continues in its own folder; tests write beside the checkpoint that they test.
        if paths["config"]:
            self.name = Path(paths["config"][-1]).stem
        which = paths["ckpt_path"] or (None if subcommand == "fit" else "last")
        self.checkpoint = None
        if which is not None:
            self.checkpoint = runs.find_checkpoint(which, self.name if paths["config"] else None, paths["run_dir"])
        run = runs.run_of(self.checkpoint) if self.checkpoint is not None else None
        if run is not None and not paths["run_dir"]:
            for link in links_out(run):  # what is written there would go where it leads
                raise ValueError(f"ckpt_path: {link} is a link that leads out of the folder of the run")
        self._requested = Path(paths["run_dir"]) if paths["run_dir"] else run
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
        return super().instantiate_trainer(**kwargs)

    def _run_subcommand(self, subcommand: str) -> None:
        """Left to `execute`, so that mistakes in the configuration are told from errors while running."""

    def execute(self) -> None:
        """Run the subcommand, and the test after `fit`."""
        assert self.subcommand is not None
        if self.checkpoint is not None:
            self.config_init[self.subcommand]["ckpt_path"] = str(self.checkpoint)
        super()._run_subcommand(self.subcommand)

    @property
    def started(self) -> bool:
        """Whether a batch was taken."""
        loops = (self.trainer.fit_loop.epoch_loop, self.trainer.validate_loop, self.trainer.test_loop)
        return any(loop.batch_progress.total.ready for loop in loops)

    def discard_run(self) -> None:
        """Remove the folder of a run that never began."""
        if self.run_dir is not None and self._requested is None and runs.is_main_process():
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
        if section is not None and self.checkpoint is None:  # a run that is continued has been through it
            options = Pretraining.parse(_plain(section))
            pretrain(self.model, self.datamodule, options, vars(self.config_init["fit"]["trainer"]), str(self.run_dir))

    def after_fit(self) -> None:
        which = self.config["fit"]["test_after_fit"]
        if which == "none" or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        callback: Any = self.trainer.checkpoint_callback
        path = getattr(callback, "best_model_path", "") if which == "best" else None
        if path == "" and runs.is_main_process():
            print("no validation chose a best checkpoint: testing the last weights", flush=True)
        self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=path or None, verbose=False)

    def test(self, **kwargs: Any) -> None:
        """Replaces the trainer's own, whose printed table `AccuracyTable` makes superfluous."""
        self.trainer.test(**{**kwargs, "verbose": False})


def main(argv: list[str]) -> int:
    """Run one of Lightning's subcommands; returns the exit status.

    Mistakes in the arguments are `ValueError`s, for the caller to tell in one line; an error after the first batch
    keeps its traceback.
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
    except TrainingInterrupted as stop:
        print(f"seqmix: {stop}", flush=True)
        return 130
    except NonFiniteLossError:
        raise
    except (ValueError, MisconfigurationException) as error:
        if not command.started:
            command.discard_run()
            raise ValueError(" ".join(str(error).split())) from None
        traceback.print_exc()
        return 1
    except RuntimeError as error:
        if command.started or "loading state_dict" not in str(error):
            raise
        command.discard_run()
        raise ValueError(
            f"ckpt_path: {command.checkpoint} does not fit this model: {' '.join(str(error).split())}"
        ) from None
    return 0


def _shortened(message: str) -> str:
    # Of a union, jsonargparse lists every member twice, and repeats the whole value.
    message = " ".join(message.split())
    before, errors, after = message.partition(" Errors:")
    value = after.rpartition("Given value:")[2].strip()
    return f"{before}; got {value}" if errors and value and len(value) < 200 else message
