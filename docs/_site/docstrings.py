"""Reads our docstrings for the site: their `Example:` is the section that Griffe calls `Examples:`."""

import re
from typing import Any

from griffe import Extension, GriffeLoader, Object


class Examples(Extension):
    def on_object(self, *, obj: Object, loader: GriffeLoader, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
