"""The code blocks of a Markdown page, with the comment above them that says how they are tested.

Fenced ones have a language; indented ones are in bash if they begin with a command, and else text.

<!-- test: run OPTIONS -->      a bash block whose commands really run, `seqmix fit` with these options added
<!-- test: skip, REASON -->     a block that cannot run here
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
LANGUAGES = ("python", "bash", "yaml", "text", "math")
PROGRAMS = ("seqmix", "make", "pytest", "pip", "python", "git", "cd")

_BLOCK = re.compile(
    r"^(?P<indent> *)(?P<fence>```+|~~~+)(?P<info>[^\n]*)\n(?P<code>.*?)^(?P=indent)(?P=fence) *$"
    r"|(?<=\n\n)(?P<indented>(?:    [^\n]*\n|\n(?=    ))+)",
    re.MULTILINE | re.DOTALL,
)
_MARK = re.compile(r"<!-- test: (run|skip,)((?:(?!-->).)*)-->\s*\Z", re.DOTALL)
_COMMAND = re.compile(rf"(\w+=\S* )*({'|'.join(PROGRAMS)}) ")


@dataclass(frozen=True)
class Block:
    """One block: `title` is the file that it is, `options` what `run` adds, `reason` why it is skipped."""

    page: Path
    line: int
    language: str
    title: str | None
    code: str
    run: bool
    options: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """All code blocks of a page, in order."""
    text, found = page.read_text(), []
    for match in _BLOCK.finditer(text):
        info, code = match["info"] or "", match["code"]
        if match["indented"]:
            code = re.sub(r"^    ", "", match["indented"], flags=re.MULTILINE)
            info = "bash" if _COMMAND.match(code) else "text"
        elif match["indent"]:
            code = re.sub(rf"^{match['indent']}", "", code, flags=re.MULTILINE)
        language, _, rest = info.strip().partition(" ")
        title = re.search(r'title="([^"]+)"', rest)
        mark = _MARK.search(text[: match.start()])
        kind, words = (mark[1], mark[2].strip()) if mark else ("", "")
        found.append(
            Block(
                page,
                line=text[: match.start()].count("\n") + 1,
                language=language,
                title=title and title[1],
                code=code,
                run=kind == "run",
                options=words if kind == "run" else "",
                reason=words if kind == "skip," else None,
            )
        )
    return found
