"""What pages have beyond Markdown: formulas as MathML, which browsers draw without a script, and where the source is.

A formula is a fence of the language `math`, as on GitHub. The repository is the one that this checkout was cloned from.
"""

import re
import subprocess
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

_EXAMPLES = Path(__file__).parents[2] / "examples"
_ATLAS = re.compile(r'<img alt="([^"]*)" src="atlas\.svg"\s*/?>')
_FENCE = re.compile(r"^```math\n(.*?)\n```$", re.MULTILINE | re.DOTALL)


def on_config(config: Any) -> None:
    found = subprocess.run(["git", "remote", "get-url", "origin"], capture_output=True, text=True).stdout.strip()
    address = re.sub(r"^git@([^:]+):", r"https://\1/", found).removesuffix(".git")
    if address.startswith("https://"):
        config.repo_url, config.repo_name = address, "Repository"


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    markdown = re.sub(r"<!-- example: (\w+\.py) -->", lambda found: cells((_EXAMPLES / found[1]).read_text()), markdown)
    return _FENCE.sub(lambda fence: f'<div class="formula" tabindex="0">{mathml(fence[1])}</div>', markdown)


def on_page_content(html: str, **kwargs: Any) -> str:
    return _ATLAS.sub(lambda image: _inline("atlas.svg", image[1]), html)


def _inline(name: str, alt: str) -> str:
    """A figure whose fields are links, which an image does not follow, as wide as the page."""
    svg = (Path(__file__).parents[1] / name).read_text()
    svg = re.sub(r'(<svg\b[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg[svg.index("<svg") :], count=1)
    return f'<span role="group" aria-label="{alt}" data-search-exclude>{svg}</span>'


def cells(script: str) -> str:
    """A script with cells as text and code blocks; its title is the page's."""
    parts = []
    for cell in re.split(r"^# %%", script, flags=re.MULTILINE)[1:]:
        head, _, body = cell.partition("\n")
        if "[markdown]" in head:
            lines = [line.removeprefix("#").removeprefix(" ") for line in body.strip().splitlines()]
            parts.append("\n".join(line for line in lines if not line.startswith("# ")).replace("../docs/", ""))
        else:
            parts.append(f"```python\n{body.strip()}\n```")
    return "\n\n".join(parts)


def mathml(formula: str) -> str:
    """LaTeX as MathML."""
    return convert(formula.replace("{aligned}", "{align*}"), display="block")
