"""Optional dependencies: one line that names what to install, instead of a traceback from deep inside."""

import importlib
from types import ModuleType

__all__ = ["require"]


def require(module: str, *, extra: str, owner: str) -> ModuleType:
    """The imported module, or an `ImportError` that names the extra of seqmix which brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = (error.name or module).partition(".")[0]
        raise ImportError(f"{owner} needs {missing}: pip install 'seqmix[{extra}]'", name=error.name) from None
