"""The report of a real store: complete, escaped, whole, and without a network."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from sample_records import anchor, curve, experiment, scenes, verified

from codec.errors import BadInputError
from tasks.analyze.leaderboard import standings
from tasks.analyze.outcomes import improvements
from tasks.analyze.report import LOG_CHARACTERS, render, write_report
from tasks.campaign import Budget, Campaign, Targets
from tasks.store.records import ExperimentRecord
from tasks.store.store import Store

HOSTILE = "<script>alert(1)</script><img src='https://example.org/x.png'>"
CHROMIUM = Path("/usr/bin/chromium")


class Page(HTMLParser):
    """The elements of a page and the text between them, scripts and styles apart."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(html)
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.words.append(data)

    @property
    def charts(self) -> dict[str, dict[str, Any]]:
        """What is handed to plotly.js, by the id of the element that shows it."""
        (script,) = (script for script in self.scripts if "const charts = " in script)
        found: dict[str, dict[str, Any]] = json.JSONDecoder().raw_decode(script.split("const charts = ", 1)[1])[0]
        return found


def keep(store: Store, record: ExperimentRecord, factor: float, clips: tuple[str, ...], noise: float) -> None:
    name, campaign = record.experiment_id, record.campaign
    store.write_experiment(
        record,
        [point for clip in clips for point in curve(name, clip, factor, campaign)],
        [scene for clip in clips for scene in scenes(name, clip, campaign, noise=noise)],
    )
    for verification in verified([record])[1:]:
        store.write_experiment(verification, (), ())


def fill(store: Store, count: int = 5, clips: tuple[str, ...] = ("/data/talk.mkv", "/data/screen.mkv")) -> None:
    """A campaign with both anchors, `count` measured candidates and one that crashed."""
    store.write_campaign(Campaign(name="night", clips=clips))
    for name, strategy, preset, factor in (("x265-medium", "x265", "medium", 1.0), ("svtav1-p6", "av1", "6", 0.85)):
        keep(store, anchor(name, strategy, preset), factor, clips, 12.0)
    for number in range(1, count + 1):
        record = experiment(f"night-{number:03d}-1", minutes=number, iteration=number, usd=0.25, input_tokens=100)
        keep(store, record, 0.5 + 0.5 * number / count, clips, 12.0)
    crashed = experiment(
        "night-099-1",
        minutes=99,
        iteration=99,
        status="crashed",
        stage="decode",
        reason=f"ValueError: {HOSTILE}",
        hypothesis=HOSTILE,
        log="early line\n" + "x" * LOG_CHARACTERS,
        config={"strategy": HOSTILE, "preset": HOSTILE},
    )
    store.write_experiment(crashed, (), ())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"), create=True)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The report of a usual campaign, which no test changes."""
    store = Store.open(str(tmp_path_factory.mktemp("usual")), create=True)
    fill(store)
    return Page(render(store, "night"))


def test_the_headline_has_the_verdict_and_the_best_candidate(page: Page) -> None:
    assert "✗ Targets not met" in page.text
    assert "Best candidate: night-001-1 (av1 preset 6), BD-rate -40.0% against x265-medium" in page.text
    assert "misses bitrate on screen.mkv" in page.text


def test_a_campaign_that_is_met_says_who_met_it(store: Store) -> None:
    store.write_campaign(Campaign(name="night"))
    full_hd: dict[str, Any] = {"width": 1920, "height": 1080, "frames_per_second": 30.0, "ssim_y": 0.96}
    store.write_experiment(experiment("night-001-1"), curve("night-001-1", "talk", **full_hd), ())
    store.write_experiment(verified([experiment("night-001-1")])[1], (), ())
    text = Page(render(store, "night")).text
    assert "✓ Targets met by night-001-1" in text
    assert "No candidate has a BD-rate yet." in text
    assert "No anchor is on record" in text


def test_every_part_of_the_campaign_is_there(page: Page) -> None:
    for said in (
        "rank experiment what BD-rate vs x265-medium",
        "screen.mkv 640×360, 25 fps, 50 frames",
        "night-001-1 against the targets",
        "(100% overlap)",
        "No codec can meet the bitrate here: its noise alone costs",
        "noise 12",
        "Scenes of night-001-1 at 120 kbps (2)",
        "✓ PSNR-Y",
        "crashed at decode",
        "its last 2000 characters",
        "night-x265-medium: x265 preset medium, measured",
        "Frames per clip 128",
        "(6·Y + U + V) / 8",
    ):
        assert said in page.text, said
    assert "early line" not in page.text
    # Two anchors, a crash and five measured of 12.5 s, 0.25 USD and 100 tokens each, five verified in 1 s.
    assert "all 13 105.0 1.25 500 0" in page.text


def test_what_an_experiment_and_an_improvement_cost_and_how_well_they_were_foreseen(store: Store) -> None:
    fill(store, count=4)
    store.write_campaign(Campaign(name="night", budget=Budget(usd=20, experiments=40)))
    for number, factor, predicted in ((1, 0.5, -40.0), (2, 0.45, -60.0)):
        record = experiment(
            f"night-05{number}-1", minutes=50 + number, iteration=50 + number, predicted_bd_rate_percent=predicted
        )
        keep(store, record, factor, ("/data/talk.mkv", "/data/screen.mkv"), 0.5)
    text = Page(render(store, "night")).text
    board = standings(store.experiments("night"), store.points("night"), Targets())
    better, tried = improvements(board), [row for row in board if row.kind == "candidate"]
    assert 1 < len(better) < len(tried)
    seconds = sum(record.gpu_seconds for record in store.experiments("night"))
    assert f"experiments {len(tried)} {seconds / len(tried):.1f}" in text
    assert f"improvements {len(better)} {seconds / len(better):.1f}" in text
    assert f"{len(tried)} of 40 experiments spent" in text
    assert "BD-rate (%) 2 7.5 -2.5 2 of 2" in text


def test_refused_bd_rates_give_their_reason(store: Store) -> None:
    fill(store, count=1)
    record = experiment("night-050-1", minutes=50, iteration=50)
    store.write_experiment(record, curve("night-050-1", "/data/talk.mkv")[:3], ())
    text = Page(render(store, "night")).text
    assert "refused: the test has 3 usable points, 4 are needed" in text
    assert "measured, no BD-rate: the test has 3 usable points, 4 are needed" in text


def test_what_was_tried_is_in_order(page: Page) -> None:
    tried = page.text.split("What was tried, in order")[1].split("What failed, and why")[0]
    assert re.findall(r"night-\d{3}-1", tried) == [f"night-{number:03d}-1" for number in (1, 2, 3, 4, 5, 99)]


def test_charts_draw_anchors_dashed_leaders_solid_and_the_rest_as_one(page: Page) -> None:
    ids = {attributes.get("id") for tag, attributes in page.elements if tag == "div"}
    assert set(page.charts) == {"chart-0", "chart-1"} <= ids
    for chart in page.charts.values():
        lines = {str(trace["name"]).split(":")[0]: trace["line"] for trace in chart["data"]}
        assert list(lines) == [
            "other candidates (2)",
            "night-svtav1-p6",
            "night-x265-medium",
            "night-001-1",
            "night-002-1",
            "night-003-1",
        ]
        dashed = [name for name, line in lines.items() if "dash" in line]
        assert dashed == ["night-svtav1-p6", "night-x265-medium"]
        best = next(trace for trace in chart["data"] if str(trace["name"]).startswith("night-001-1"))
        assert best["x"] == pytest.approx([36, 66, 120, 228, 420])
        assert best["y"] == [30.5, 33.4, 36.2, 39.0, 41.6]


def test_chart_targets_are_scaled_to_the_clip(page: Page) -> None:
    layout = page.charts["chart-0"]["layout"]
    assert layout["xaxis"]["type"] == "log"
    # 1000 kbps at 1080p30, for 640×360 at 25 fps.
    assert layout["shapes"][1]["x0"] == pytest.approx(1000 * 640 * 360 * 25 / (1920 * 1080 * 30))
    assert layout["shapes"][2]["y0"] == 35


def test_what_a_candidate_writes_is_escaped(store: Store) -> None:
    fill(store)
    measured = experiment("night-000-1", hypothesis=HOSTILE, config={"strategy": HOSTILE})
    keep(store, measured, 0.4, ("/data/talk.mkv", "/data/screen.mkv"), 0.5)
    html = render(store, "night")
    page = Page(html)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<script>alert(1)" not in html
    assert HOSTILE in page.text
    assert "img" not in {tag for tag, _ in page.elements}
    # plotly.js reads markup in names, so there it is escaped once more.
    names = [str(trace["name"]) for trace in page.charts["chart-0"]["data"]]
    assert any("&lt;script&gt;" in name for name in names)
    assert not any("<script" in name for name in names)


def test_nothing_is_loaded_from_a_network(page: Page) -> None:
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert (attributes.get(name) or "#").startswith("#")
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.elements}
    policies = [attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes]
    assert [str(policy).split(";")[0] for policy in policies] == ["default-src 'none'"]


def test_a_campaign_of_failures_only_has_a_report(store: Store) -> None:
    for number, status in enumerate(("crashed", "timeout", "infrastructure", "rejected")):
        store.write_experiment(
            experiment(f"night-001-{number}", status=status, stage="", reason=f"why {number}", config={}), (), ()
        )
    html = render(store, "night")
    page = Page(html)
    for said in ("No candidate has a BD-rate yet.", "no candidate meets all of them", "why 3", "own code"):
        assert said in page.text, said
    assert "Its terms are not on record" in page.text
    assert page.scripts == []


def test_a_campaign_before_its_first_experiment_has_a_report(store: Store) -> None:
    store.write_campaign(Campaign(name="night"))
    assert "No experiment is on record yet." in Page(render(store, "night")).text


def test_an_unknown_campaign_names_the_known_ones(store: Store, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="it holds none"):
        write_report(tmp_path / "report.html", store, "night")
    for name in ("early", "late"):
        store.write_campaign(Campaign(name=name))
    with pytest.raises(BadInputError, match="no campaign 'night' in the store: it holds early, late"):
        write_report(tmp_path / "report.html", store, "night")
    assert not (tmp_path / "report.html").exists()


def test_written_whole_into_a_new_folder_and_over_an_old_report(store: Store, tmp_path: Path) -> None:
    store.write_campaign(Campaign(name="night"))
    out = tmp_path / "reports" / "night.html"
    write_report(out, store, "night")
    out.write_text("old")
    write_report(out, store, "night")
    assert out.read_text(encoding="utf-8").endswith("</html>")
    assert [path.name for path in out.parent.iterdir()] == ["night.html"]


@pytest.mark.parametrize("place", ["a file/report.html", "a folder"])
def test_an_unwritable_path_is_one_line_and_leaves_nothing(store: Store, tmp_path: Path, place: str) -> None:
    store.write_campaign(Campaign(name="night"))
    (tmp_path / "a file").write_text("in the way")
    (tmp_path / "a folder").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(BadInputError) as refused:
        write_report(tmp_path / place, store, "night")
    assert str(tmp_path / place) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert sorted(tmp_path.iterdir()) == before


def test_fifty_experiments_are_reported_in_two_seconds(store: Store, tmp_path: Path) -> None:
    fill(store, count=50)
    render(store, "night")  # what is imported once is not the report's time
    began = time.process_time()  # of this process alone: others may load the machine
    write_report(tmp_path / "report.html", store, "night")
    assert time.process_time() - began < 2


def test_reporting_loads_no_codec_and_no_network(store: Store, tmp_path: Path) -> None:
    fill(store, count=1)
    code = (
        "import sys; from pathlib import Path; from tasks.analyze.report import write_report;"
        "from tasks.store.store import Store; write_report(Path(sys.argv[1]), Store.open(sys.argv[2]), 'night');"
        "print([name for name in ('torch', 'av', 'cv2') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "report.html"), str(tmp_path / "store")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]"


@pytest.fixture
def browser_page(store: Store, tmp_path: Path) -> tuple[list[str], list[str], dict[str, int]]:
    """(addresses asked for, errors, sizes) of the report in a browser of a phone's width."""
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}")
    from playwright.sync_api import sync_playwright

    fill(store)
    out = tmp_path / "report.html"
    write_report(out, store, "night")
    asked: list[str] = []
    errors: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
        shown.on("request", lambda request: asked.append(request.url))
        shown.on("pageerror", lambda error: errors.append(str(error)))
        shown.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        shown.goto(out.as_uri())
        shown.wait_for_selector("#chart-1 .main-svg")
        sizes = shown.evaluate(
            """() => ({
                page: document.documentElement.scrollWidth,
                curves: document.querySelectorAll("#chart-0 .scatterlayer .trace").length,
            })"""
        )
        browser.close()
    return asked, errors, sizes


@pytest.mark.slow
def test_a_browser_draws_it_at_phone_width_and_asks_for_nothing_else(
    browser_page: tuple[list[str], list[str], dict[str, int]],
) -> None:
    asked, errors, sizes = browser_page
    assert [address for address in asked if not address.startswith(("file:", "data:", "blob:"))] == []
    assert errors == []
    assert sizes == {"page": 390, "curves": 6}
