"""The Prefect UI in a real browser: the typed form explains itself, and a run started from it is dispatched."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect, sync_playwright
from prefect.client.orchestration import get_client

from flows.local import LocalLab, prefect_api

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Without these Chromium calls home at every start, which a closed network answers slowly.
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
def page() -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here to look at the Prefect UI with (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser.new_page(viewport={"width": 1280, "height": 2400})
        browser.close()


def test_the_form_of_research_loop_shows_titles_bounds_and_defaults(page: Page, lab: LocalLab) -> None:
    with prefect_api(lab.api_url), get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("research-loop/evocodec")
    assert [schedule.active for schedule in deployment.schedules] == [False]
    page.goto(f"{lab.ui_url}/deployments/deployment/{deployment.id}/run")
    for title in ("Campaign", "Iterations", "Candidates per iteration", "Rate points", "Targets", "PSNR-Y (dB)"):
        expect(page.get_by_text(title, exact=False).first).to_be_visible(timeout=30_000)
    expect(page.get_by_text("1 to 8", exact=False).first).to_be_visible()
    label = page.locator("label", has_text="Iterations (Optional)").first
    assert label.locator("xpath=../..").locator("input").first.input_value() == "2"
