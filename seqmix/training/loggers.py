"""Loggers beside CSV and TensorBoard: what they need is told before anything starts; trackio, which Lightning lacks."""

import importlib.util
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

__all__ = ["TrackioLogger", "check_loggers"]

# Classes that need a package, and what pip calls it where that is another name.
_PACKAGES = {
    "WandbLogger": "wandb",
    "MLFlowLogger": "mlflow",
    "CometLogger": "comet_ml",
    "NeptuneLogger": "neptune",
    "LitLogger": "litlogger",
    "TrackioLogger": "trackio",
}
_PIP = {"comet_ml": "comet-ml"}


class TrackioLogger(Logger):
    """Metrics to trackio, which keeps them on this machine, or in a Space of the hub: `trackio show` draws them.

    Args:
        project: that the run belongs to.
        name: of the run; made up by trackio if None.
        space_id: of the Space that holds them; on this machine if None.

    Raises:
        ImportError: trackio is not installed.

    Example:
        >>> from seqmix.training.loggers import TrackioLogger
        >>> logger = TrackioLogger("my-project")  # doctest: +SKIP
    """

    def __init__(self, project: str = "seqmix", name: str | None = None, space_id: str | None = None) -> None:
        super().__init__()
        _check("TrackioLogger")
        self._project, self._name, self._space = project, name, space_id
        self._settings: dict[str, Any] = {}
        self._run: Any = None

    @property
    def name(self) -> str:
        """The project."""
        return self._project

    @property
    def version(self) -> str | None:
        """The run."""
        return self._name

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Settings of the run; those that come after its first metrics are not kept."""
        self._settings |= dict(params) if hasattr(params, "keys") else vars(params)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Metrics of a step."""
        if self._run is None:
            import trackio

            plain = (int, float, str)
            settings = {key: value if isinstance(value, plain) else str(value) for key, value in self._settings.items()}
            self._run = trackio.init(project=self._project, name=self._name, space_id=self._space, config=settings)
        self._run.log(metrics, step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Ends the run."""
        if self._run is not None:
            self._run.finish()
            self._run = None


def check_loggers(loggers: Any) -> None:
    """`ValueError` for a logger of a config whose package is not installed."""
    for each in loggers if isinstance(loggers, list) else [loggers]:
        class_path = each.get("class_path") if hasattr(each, "get") else None
        if class_path is not None:
            _check(str(class_path).rpartition(".")[2])


def _check(name: str) -> None:
    package = _PACKAGES.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        raise ImportError(f"trainer.logger: {name} needs {package}: pip install {_PIP.get(package, package)}")
