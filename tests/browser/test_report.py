"""The report of a comparison in a headless Chromium: it needs no network, sorts, filters, and runs nobody else's script."""

import json

import pytest

from lib_noiseorder.tools.cli import main
from lib_noiseorder.tools.compare import webui_api
from tests.hosts.small_webui import SmallWebUI

PAIRS = 12
pytestmark = pytest.mark.needs("a browser")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A finished run's folder."""
    out = tmp_path_factory.mktemp("report") / "run"
    with SmallWebUI() as webui:
        command = ["compare", "--webui", webui.url, "--prompts", "shapes", "--pairs", str(PAIRS), "--out", str(out), "--quiet"]
        assert main(command) == 0
    return out


@pytest.fixture
def opened(browser, report):
    """A function that opens the page without a network; `page.errors` collects what its console says."""
    pages = []

    def open_(path=report / "report.html", **more):
        page = browser.new_page(viewport={"width": 1200, "height": 1400}, offline=True, **more)
        pages.append(page)
        page.errors, page.asked = [], []
        page.on("console", lambda message: page.errors.append(message.text))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_
    for page in pages:
        page.close()


def column(page, heading, title):
    """The texts of a column of the table below a heading."""
    table = page.locator("h2", has_text=heading).locator("xpath=following-sibling::div[1]//table")
    titles = table.locator("th").all_inner_texts()
    return [row.locator("td").nth(titles.index(title)).inner_text() for row in table.locator("tbody tr").all()]


def click(page, heading, title):
    table = page.locator("h2", has_text=heading).locator("xpath=following-sibling::div[1]//table")
    table.get_by_role("button", name=title, exact=True).click()


def prompts(page):
    return [pair.get_attribute("data-number") for pair in page.locator(".pair:visible").all()]


def test_the_page_is_whole_by_itself(opened, report):
    page = opened()
    assert page.errors == []
    assert [url for url in page.asked if not url.startswith("data:")] == [(report / "report.html").as_uri()]
    assert page.locator(".pair").count() == PAIRS and page.locator(".pair img").count() == 3 * PAIRS
    broken = "[...document.images].filter(image => !(image.complete && image.naturalWidth)).length"
    assert page.evaluate(broken) == 0
    assert page.locator("svg[role=img]").count() == 2  # all right, attributes
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_tables_sort_by_value_both_ways(opened):
    page = opened()
    click(page, "Scores", "mean")
    means = [float(mean) for mean in column(page, "Scores", "mean")]
    assert means == sorted(means) and len(set(means)) > 1
    click(page, "Scores", "mean")
    assert [float(mean) for mean in column(page, "Scores", "mean")] == sorted(means, reverse=True)
    click(page, "Scores", "arm")
    assert column(page, "Scores", "arm") == sorted(column(page, "Scores", "arm"))


def test_rows_without_a_value_stay_below(opened):
    page = opened()
    for _ in range(2):
        click(page, "Scores", "against plain")
        found = column(page, "Scores", "against plain")
        assert all(found[:4]) and not any(found[4:])


def test_pictures_by_what_an_arm_gains(opened, report):
    page = opened()
    found = json.loads((report / "results.json").read_text(encoding="utf-8"))["pictures"]
    right = {(picture["pair"], picture["arm"]): picture["scores"]["all right"] for picture in found}
    gains = {pair: right[pair, "automatic"] - right[pair, "plain"] for pair in range(PAIRS)}
    page.locator("#order").select_option(label="all right: automatic gains most")
    assert [gains[int(number)] for number in prompts(page)] == sorted(gains.values(), reverse=True)
    page.locator("#order").select_option(label="all right: automatic loses most")
    assert [gains[int(number)] for number in prompts(page)] == sorted(gains.values())
    page.locator("#category").select_option("rare")
    assert len(prompts(page)) == PAIRS // 2
    page.locator("#order").select_option(label="as made")
    page.locator("#category").select_option(label="all")
    assert prompts(page) == [str(number) for number in range(PAIRS)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(opened, scheme):
    page = opened(color_scheme=scheme)
    ground = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(ground)
    brightness = sum(int(part) for part in before[4:-1].split(","))
    assert brightness > 600 if scheme == "light" else brightness < 150
    page.locator("#theme").click()
    assert page.evaluate(ground) != before


def test_a_narrow_window_is_not_torn(opened):
    page = opened()
    page.set_viewport_size({"width": 380, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_prompts_and_names_are_text(opened, tmp_path, monkeypatch):
    evil = """<img src=x onerror="document.title='taken'"></script><script>document.title='taken'</script>'&quot;"""
    answer = SmallWebUI._picture
    monkeypatch.setattr(SmallWebUI, "_picture", lambda self, asked: answer(self, {**asked, "prompt": "a red circle"}))
    monkeypatch.setattr(webui_api, "_model", lambda info, infotext: {"name": evil})
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": evil, "category": evil}) + "\n", encoding="utf-8")
    with SmallWebUI() as webui:
        command = ["compare", "--webui", webui.url, "--prompts", str(tmp_path / "p.jsonl"), "--out", str(tmp_path / "run")]
        assert main([*command, "--quiet", "--scores", "none"]) == 0
    page = opened(tmp_path / "run/report.html")
    assert page.title() == "Noise Order compared" and page.errors == []
    assert evil in page.locator(".pair").first.inner_text() and evil in page.locator(".top").inner_text()
    page.locator("#category").select_option(evil)
    assert len(prompts(page)) == 2
