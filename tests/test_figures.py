"""What files of others call things stands in figures as text."""

from xml.etree import ElementTree

import pytest

from seqmix._figures import as_text, encode, new_figure, style


@pytest.mark.parametrize("name", ["a\x06b", "\x19", r"two $\foo$ words", "$", "中文", "plain"])
def test_any_name_is_drawn(name: str) -> None:
    """Warnings are errors here: of letters that the font has not none is said."""
    with style("a test"):
        figure = new_figure(3, 2)
        axes = figure.subplots()
        axes.plot([1, 2], [1, 2], label=as_text(name))
        axes.set_yticks([1], [as_text(name)])
        axes.legend()
        svg, png = encode(figure, "svg"), encode(figure, "png")
    told = [node.text or "" for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("text")]
    assert sum(text.strip() == name.replace("\x06", "\ufffd").replace("\x19", "\ufffd") for text in told) == 2
    assert png.startswith(b"\x89PNG")
