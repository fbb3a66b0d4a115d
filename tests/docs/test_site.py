"""The site builds without a warning and without the network, and its reference has every public name."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.docs.blocks import PAGES, ROOT

PUBLIC = [f"seqmix.{path.stem}" for path in sorted(ROOT.glob("docs/reference/*.md")) if path.stem != "seqmix"]
INTERNAL = {"seqmix.benchmarks", "seqmix.commands", "seqmix.configs", "seqmix.studies"}  # commands and data, no library


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. In strict mode a broken link or anchor, or a page that is not in the navigation, is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    # No proxy leads anywhere, so whatever wants the network fails.
    quiet = {"NO_MKDOCS_2_WARNING": "1", "https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    result = subprocess.run(command, cwd=ROOT, env=os.environ | quiet, capture_output=True, text=True)
    assert result.returncode == 0 and not result.stderr, result.stdout + result.stderr
    return folder


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) >= len(PAGES)
    for page in pages:
        html = page.read_text()
        loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?([^\" >]+)", html)
        loaded += re.findall(
            r"<link\b[^>]*\brel=\"?(?:stylesheet|icon|preconnect|preload)[^>]*\bhref=\"?([^\" >]+)", html
        )
        assert loaded
        for address in loaded:
            assert not re.match(r"(https?:)?//", address), f"{page.name} loads {address}"
            if page.name != "404.html":
                assert (page.parent / address.partition("?")[0]).is_file(), f"{page.name} has no {address}"


def test_formulas_are_drawn_without_a_script(site: Path) -> None:
    html = (site / "algebra.html").read_text()
    assert html.count("<math ") >= 20 and "\\begin" not in html and "<mtable" in html
    assert "```math" not in html and "katex" not in html.lower()


def test_the_search_works_from_disk(site: Path) -> None:
    assert (site / "search" / "search_index.js").read_text().startswith("var __index = {")
    for page in ("index.html", "reference/mixers.html"):
        assert "assets/iframe-worker.js" in (site / page).read_text(), "workers cannot be started from disk"


def test_examples_are_on_their_page(site: Path) -> None:
    html = (site / "examples.html").read_text()
    assert "class Model" in re.sub(r"<[^>]+>", "", html) and "# %%" not in html and "example:" not in html


@pytest.mark.slow
def test_a_word_is_found_in_a_browser_that_opens_files(site: Path) -> None:
    webdriver = pytest.importorskip("selenium.webdriver")
    wait = pytest.importorskip("selenium.webdriver.support.wait")
    browser, service = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or service is None:
        pytest.skip("no chromium or chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1400,1000"):
        options.add_argument(f"--{argument}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    try:
        driver.get(f"file://{site}/index.html")
        driver.find_element("css selector", ".md-search__input").send_keys("householder")
        found = wait.WebDriverWait(driver, 60).until(
            lambda it: it.find_elements("css selector", ".md-search-result__item a")
        )
        assert found[0].get_attribute("href").startswith("file://")
    finally:
        driver.quit()


def test_public_packages_have_a_page() -> None:
    packages = {f"seqmix.{path.parent.name}" for path in ROOT.glob("seqmix/[a-z]*/__init__.py")}
    assert set(PUBLIC) == packages - INTERNAL
    assert (ROOT / "docs/reference/seqmix.md").is_file()


@pytest.mark.parametrize("module", ["seqmix", *PUBLIC])
def test_the_reference_has_every_public_name(site: Path, module: str) -> None:
    html = (site / "reference" / f"{module.rpartition('.')[2]}.html").read_text()
    # The names of seqmix itself are links to their pages.
    where = r'\bid="?(seqmix[\w.]*)' if module != "seqmix" else r'\bhref="?[\w.]+#(seqmix[\w.]*)'
    anchors = set(re.findall(where, html))
    for name in getattr(importlib.import_module(module), "__all__", ()):
        # Griffe takes a name for the module of that name, so such a function needs a directive of its own.
        assert any(anchor.endswith(f".{name}") for anchor in anchors), f"{module}.{name} is not on its page"


def test_pages_of_the_navigation_are_there_once() -> None:
    entries = re.findall(r"\b([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE)
    assert sorted(entries) == sorted(
        str(page.relative_to(ROOT / "docs")) for page in PAGES if page.name != "README.md" or page.parent != ROOT
    )


def test_links_of_the_readme_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    for path in re.findall(r"`((?:seqmix|tests|docs|benchmarks)/[\w/.-]+\.\w+)`", page.read_text()):
        assert (ROOT / path).exists(), f"{page.name} names {path}"


def test_make_docs_is_strict() -> None:
    assert yaml.safe_load((ROOT / "mkdocs.yml").read_text())["strict"] is True
    assert "mkdocs build --strict" in (ROOT / "Makefile").read_text()
