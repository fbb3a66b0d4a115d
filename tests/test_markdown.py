"""Text of records in Markdown: it is shown, and does nothing."""

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqmix._markdown import Markup, code, escaped, markdown_table, printable

HOSTILE = [
    "<script>alert(1)</script>",
    "<!-- /seqmix:a5 -->",
    "a\n\n# A heading\n\n- a list",
    "[link](javascript:alert(1)) ![image](x)",
    "**bold** *light* _slanted_ __b__ ~~gone~~ `code` $x$",
    "a | b || c \\| d",
    "&lt;b&gt; &#60; \\",
    "\u202eback\x1b[31m\ud800\x00",
    "http://x.y <https://x.y>",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_as_it_is(text: str) -> None:
    markdown = pytest.importorskip("markdown")
    shown = markdown.markdown(f"before {escaped(text)} after", extensions=["tables", "md_in_html"])
    assert re.findall(r"<[^>]+>", shown) == ["<p>", "</p>"]
    assert html.unescape(shown[3:-4]) == f"before {printable(text)} after"
    table = markdown.markdown(markdown_table(["a", text], [[text, "b"], ["c", "d"]]), extensions=["tables"])
    assert set(re.findall(r"<(\w+)", table)) == {"table", "thead", "tbody", "tr", "th", "td"}
    assert table.count("<td") == 4 and table.count("<th") - 1 == 2


@given(st.text())
def test_escaped_text_is_one_line_that_can_be_written(text: str) -> None:
    line = escaped(text)
    assert line.encode() is not None and len(line.splitlines()) <= 1
    assert "<" not in line and escaped(line) is line
    assert not re.search(r"(?<!\\)(\\\\)*[|*`\[]", line), "every sign has its backslash"
    assert code(text).encode() and len(code(text).splitlines()) == 1


def test_what_needs_no_escape_stays_as_it_is() -> None:
    text = "bd-lru(block_size=5, gates='softmax'), 0.99 (0.5 to 1.0), #3 > 2 + x_1 ∞"
    assert escaped(text) == text
    assert escaped(Markup("**bold**")) == "**bold**"
    assert code("a `b` c") == "``a `b` c``" and code("`") == "`` ` ``"
