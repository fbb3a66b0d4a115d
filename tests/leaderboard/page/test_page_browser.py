"""The pages in a real browser, opened as files: buttons do what they say, in both themes and on a phone."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seqmix.leaderboard.page import write_site
from seqmix.leaderboard.records.store import latest
from tests.leaderboard.page.synthetic import make_records

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install 'seqmix[dev]'")
wait = pytest.importorskip("selenium.webdriver.support.wait")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="no chromium or chromedriver: apt-get install chromium chromium-driver"
)

HOSTILE = "<img src=x onerror=\"document.title='owned'\"> & 'quotes'"
ENTRIES = ("bd-lru", "mamba", "lru", "attention", HOSTILE)
TASKS = ("parity", "a5", "mqar")


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    first = make_records(ENTRIES, TASKS, seeds=3, board="equal-parameters")
    return [*first, *make_records(ENTRIES[:2], TASKS[:2], seeds=2, board="equal-state")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]) -> Path:
    out = tmp_path_factory.mktemp("page") / "site"
    write_site(records, out, title="Mixers <b>compared</b>")
    return out


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    # A browser of root has no sandbox, and a container little shared memory.
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1400,1000"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield found
    found.quit()


@pytest.fixture(autouse=True)
def quiet(driver: Any) -> Iterator[None]:
    """No test leaves a message on the console."""
    driver.get_log("browser")
    yield
    assert driver.get_log("browser") == []


def open_page(driver: Any, path: Path) -> None:
    driver.get(path.as_uri())


def texts(driver: Any, selector: str) -> list[str]:
    return driver.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(item => item.textContent.trim())", selector
    )


def click(driver: Any, selector: str) -> None:
    driver.execute_script("document.querySelector(arguments[0]).click()", selector)


def test_sorting_reorders_by_any_column_and_by_keyboard(driver: Any, site: Path) -> None:
    open_page(driver, site / "index.html")
    ranked = texts(driver, ".board td.name a")
    assert len(ranked) == len(ENTRIES)
    heads = driver.find_elements("css selector", ".board th button")
    for index, head in enumerate(heads):
        head.send_keys("\ue007")  # Enter
        sort = "return document.querySelectorAll('.board th')[arguments[0]].getAttribute('aria-sort')"
        state = driver.execute_script(sort, index)
        rows = "return [...document.querySelectorAll('.board tbody tr')].map(row => row.cells[arguments[0]].dataset.v)"
        values = driver.execute_script(rows, index)
        if index != 1:
            numbers = [float(value) for value in values]
            assert numbers == sorted(numbers, reverse=state == "descending")
        head.send_keys(" ")
        assert driver.execute_script(sort, index) != state
    assert sorted(texts(driver, ".board td.name a")) == sorted(ranked)
    click(driver, ".board th:first-child button")
    assert texts(driver, ".board td.name a") == ranked


def test_the_filter_and_what_the_cells_show(driver: Any, site: Path) -> None:
    open_page(driver, site / "index.html")
    box = driver.find_element("css selector", "input[type=search]")
    box.send_keys("lru")
    shown = "return [...document.querySelectorAll('.board tbody tr')].filter(row => row.offsetParent).length"
    assert driver.execute_script(shown) == 2 and "2 of 5" in texts(driver, "#count")[0]
    box.clear()
    box.send_keys(" ")
    assert driver.execute_script(shown) == 5
    visible = "return getComputedStyle(document.querySelector('.board td.c b.m')).display"
    assert driver.execute_script(visible) == "none"
    click(driver, "button[data-mode=mid]")
    assert driver.execute_script(visible) != "none"
    click(driver, "input[data-column='3']")
    shown = "return [...document.querySelectorAll('.board tr')].some(row => row.cells[3].offsetParent)"
    assert not driver.execute_script(shown)


def test_every_link_leads_somewhere_and_nothing_comes_from_the_network(driver: Any, site: Path) -> None:
    seen: set[str] = set()
    waiting = [(site / "index.html").as_uri()]
    while waiting:
        address = waiting.pop()
        if address in seen:
            continue
        seen.add(address)
        path = Path(address.removeprefix("file://"))
        assert path.is_file(), address
        if path.suffix != ".html":
            continue
        driver.get(address)
        links = driver.execute_script(
            "return [...document.querySelectorAll('a[href]')].map(a => [a.href.split('#')[0], a.hash.slice(1)])"
        )
        here = driver.execute_script("return [...document.querySelectorAll('[id]')].map(item => item.id)")
        assert all(mark in here for link, mark in links if mark and link == address)
        waiting += [link for link, _ in links]
    pages = {path.as_uri() for path in site.rglob("*.html")}
    assert pages <= seen
    asked = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"]
    assert urls and all(url.startswith(("file://", "data:")) for url in urls)


def test_cells_lead_to_their_runs_and_the_exact_commands(
    driver: Any, site: Path, records: list[dict[str, Any]]
) -> None:
    by_id = {record["id"]: record for record in latest(records)}
    open_page(driver, site / "index.html")
    name = texts(driver, ".board tbody tr:first-child td.name a")[0]
    click(driver, ".board tbody tr:first-child td.c a")
    assert name in texts(driver, "h1")[0]
    for button in driver.find_elements("css selector", ".runs .open-it"):
        driver.execute_script("arguments[0].click()", button)
    rows = driver.execute_script(
        "return [...document.querySelectorAll('.runs tbody')].map(b => [b.id, b.querySelector('code').textContent, "
        "b.querySelector('.copy').offsetHeight])"
    )
    assert len(rows) == 8
    for run, command, height in rows:
        assert command == by_id[run]["repro"]["command"] and height > 0
        assert by_id[run]["identity"]["entry"] == name
    click(driver, ".runs .copy")
    copied = "return document.querySelector('.runs .copy').textContent"
    wait.WebDriverWait(driver, 5).until(lambda d: d.execute_script(copied) in ("Copied", "Selected"))
    values = lambda: [float(text) for text in texts(driver, ".runs tbody tr:first-child td:nth-child(2)")]  # noqa: E731
    click(driver, ".runs th:nth-child(2) button")
    assert values() == sorted(values())
    click(driver, ".runs th:nth-child(2) button")
    assert values() == sorted(values(), reverse=True)


def test_the_theme_follows_the_system_and_the_switch(driver: Any, site: Path) -> None:
    background = "return getComputedStyle(document.body).backgroundColor"
    colours = {}
    for scheme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        open_page(driver, site / "index.html")
        colours[scheme] = driver.execute_script(background)
    assert colours["light"] != colours["dark"]
    for shown in (colours["light"], colours["dark"], colours["dark"]):  # light, dark, as the system
        click(driver, ".theme")
        assert driver.execute_script(background) == shown
    click(driver, ".theme")
    open_page(driver, next((site / "equal-parameters").glob("a5.html")))
    assert driver.execute_script(background) == colours["light"]  # kept from page to page
    driver.execute_script("localStorage.clear()")
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_legends_and_hints(driver: Any, site: Path) -> None:
    open_page(driver, site / "equal-parameters" / "a5.html")
    click(driver, ".legend button[data-s='1']")
    on = "return [...document.querySelectorAll('.plots .s.on')].map(item => item.dataset.s)"
    assert set(driver.execute_script(on)) == {"1"}
    click(driver, ".legend .clear")
    assert driver.execute_script(on) == []
    mark = driver.find_element("css selector", ".plots use[data-t]")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", mark)
    webdriver.ActionChains(driver).move_to_element(mark).perform()
    assert "length" in texts(driver, "#tip")[0]


@pytest.mark.parametrize("width", [390, 1000, 1440])
def test_no_page_scrolls_sideways(driver: Any, site: Path, width: int, tmp_path: Path) -> None:
    write_site(list(make_records(["lru", "mamba"], board="wide", seeds=2)), tmp_path / "wide")
    metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    wide = [
        tmp_path / "wide" / name for name in ("index.html", "wide/a5.html", "wide/lru/a5.html", "wide/lru/index.html")
    ]
    for page in [site / "index.html", *wide]:
        open_page(driver, page)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width, page
        # What is too wide can be scrolled where it stands.
        hidden = (
            "return [...document.querySelectorAll('table')].filter(t => t.offsetWidth > t.parentElement.clientWidth "
            "&& getComputedStyle(t.parentElement).overflowX != 'auto').length"
        )
        assert driver.execute_script(hidden) == 0, page
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_what_records_bring_is_text(driver: Any, site: Path) -> None:
    open_page(driver, site / "index.html")
    assert HOSTILE in texts(driver, ".board td.name a")
    assert driver.title.startswith("Mixers <b>compared</b>")
    assert driver.execute_script("return document.querySelectorAll('h1 b, td img').length") == 0


def test_every_column_of_a_wide_board_is_seen(driver: Any, tmp_path: Path) -> None:
    write_site(list(make_records(seeds=2)), tmp_path / "site")
    driver.set_window_size(1360, 1000)
    driver.get((tmp_path / "site" / "index.html").as_uri())
    frame, table = driver.execute_script(
        "const f = document.querySelector('.frame'); return [f.clientWidth, f.scrollWidth]"
    )
    assert table <= frame, "State is the last column"
