"""Optional dependencies: one line that names what to install, instead of a traceback from deep inside."""

import importlib
import importlib.util
from types import ModuleType

__all__ = ["installed", "require"]


def require(module: str, *, extra: str, owner: str) -> ModuleType:
    """The imported module, or an `ImportError` that names the extra of seqmix which brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = (error.name or module).partition(".")[0]
        raise ImportError(f"{owner} needs {missing}: pip install 'seqmix[{extra}]'", name=error.name) from None


def installed(package: str, *, extra: str, owner: str) -> None:
    """The same `ImportError` for a package that is not there, without importing one that is."""
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"{owner} needs {package}: pip install 'seqmix[{extra}]'", name=package)
