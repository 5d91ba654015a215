"""`evocodec run` and `evocodec up`: a campaign on a lab of its own or on a server that runs already."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
from rich.console import Console

from codec.errors import BadInputError, EvocodecError
from flows.commands.results import print_leaderboard
from flows.local import LocalLab, prefect_api
from tasks.analyze.leaderboard import standings
from tasks.campaign import Campaign
from tasks.design.designer import make_designer
from tasks.store.store import Store
from tasks.store.terms import require_same_terms

CHECK_SECONDS = 1.0


def run_command(campaign: Campaign, console: Console, *, server: str, port: int | None, home: Path) -> None:
    """Run `campaign` to its end, then print the leaderboard and where everything is.

    Raises BadInputError before anything is started where the clips or the store cannot be used, EvocodecError where the
    campaign failed.
    """
    started = time.monotonic()
    store = Store.open(campaign.store, create=True)
    require_same_terms(store, campaign)
    with ExitStack() as stack:
        if server:
            api_url = _answering(server)
            stack.enter_context(prefect_api(api_url))
            ui_url, lab = api_url.removesuffix("/api"), None
        else:
            _check_clips(campaign, console)
            make_designer(campaign, store)  # its key is missed here, or after the anchors have been measured
            status = console.status("starting")
            with status:
                cloud_keys = campaign.store.startswith("s3://")
                lab = stack.enter_context(LocalLab(home, port=port, cloud_keys=cloud_keys, on_step=status.update))
            stack.enter_context(prefect_api(lab.api_url))
            ui_url = lab.ui_url
        console.print(
            f"campaign [bold]{campaign.name}[/]: {campaign.iterations} iterations × {campaign.candidates} candidates, "
            f"designer {campaign.designer}{' (no key needed)' if campaign.designer == 'search' else ''}; UI: {ui_url}"
        )
        # Imported here: the Prefect client takes over a second to load, while the server starts without it.
        from flows.follow import run_campaign

        outcome = run_campaign(campaign, console, check=lab.check if lab else lambda: [], stop_at_once=lab is not None)
    if not outcome.completed:
        _raise_failure(campaign, outcome.message, f"logs: {home / 'logs'}" if lab else f"run: {ui_url}/runs")
    _print_end(campaign, store, console, home, time.monotonic() - started, local=lab is not None)


def up_command(console: Console, *, port: int, cloud_keys: bool, home: Path) -> None:
    """Keep a lab running until it is interrupted; restart its workers where they die."""
    status = console.status("starting")
    with status:
        lab = LocalLab(home, port=port, cloud_keys=cloud_keys, on_step=status.update)
        lab.__enter__()
    try:
        console.print(f"The lab is running. UI: {lab.ui_url}")
        console.print("Deployments → research-loop → Run → Custom run starts a campaign; or, in another terminal:")
        console.print(f"  evocodec run --server {lab.api_url}")
        console.print("Ctrl-C stops it.")
        while True:
            for event in lab.check():
                console.print(event, style="yellow")
            time.sleep(CHECK_SECONDS)
    finally:
        lab.stop()


def _check_clips(campaign: Campaign, console: Console) -> None:
    """Open each clip as the worker will: a bad one costs a second here and a started server there."""
    from codec.video import open_video
    from tasks.execute.fetch import fetched

    for name in (*campaign.clips, *campaign.select, *campaign.sealed, *campaign.train):
        if name != "demo":
            with fetched(name) as path, open_video(path) as reader:
                for warning in reader.warnings:
                    console.print(f"{name}: {warning}", style="yellow", markup=False)


# How Prefect words the exception of a flow, and of a flow that this one waited for.
FLOW_FAILED = re.compile(r"(?:Flow run encountered an exception: )?(?:[\w.]*\.)?(\w+Error): ")


def _raise_failure(campaign: Campaign, message: str, where: str) -> None:
    """The loop's failure as this command's: its words without Prefect's, and bad input as bad input."""
    kinds = FLOW_FAILED.findall(message)
    plain = FLOW_FAILED.sub("", message)
    if "BadInputError" in kinds:
        raise BadInputError(plain)
    raise EvocodecError(f"campaign {campaign.name!r} failed: {plain}; {where}")


def _answering(server: str) -> str:
    """The API URL of a server that answers there. Raises BadInputError."""
    base = server.rstrip("/")
    for url in (base, f"{base}/api"):
        try:
            if httpx.get(f"{url}/health", timeout=5).json() is True:
                return url
        except (httpx.HTTPError, httpx.InvalidURL, ValueError):
            continue
    raise BadInputError(f"no Prefect server answers at {server}: start one with `evocodec up`, or check the URL")


def _print_end(campaign: Campaign, store: Store, console: Console, home: Path, seconds: float, *, local: bool) -> None:
    from tasks.analyze.report import write_report
    from tasks.design.budget import ledger, stopped_by

    board = standings(
        store.experiments(campaign.name),
        store.points(campaign.name),
        campaign.targets,
        scenes=store.scenes(campaign.name),
    )
    print_leaderboard(campaign.name, board, console)
    cap = stopped_by(campaign.budget, ledger(store.experiments(campaign.name), store.designs(campaign.name)))
    if cap:
        console.print(f"budget   {cap}", markup=False)
    home.mkdir(parents=True, exist_ok=True)
    report = (home / f"report-{campaign.name}.html").resolve()
    write_report(report, store, campaign.name)
    console.print(f"report   {report}", markup=False)
    elsewhere = "" if campaign.store == str((home / "store").resolve()) else f" --store {campaign.store}"
    console.print(f"records  {campaign.store}  (evocodec results --campaign {campaign.name}{elsewhere})", markup=False)
    console.print("UI       evocodec up, then http://127.0.0.1:4200" if local else "UI       stays on the server")
    console.print(f"took     {seconds:.0f} s")
