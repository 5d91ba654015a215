"""`evocodec run` and `evocodec up`: a campaign on a lab of its own or on a server that runs already."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import httpx
from rich.console import Console

from codec.errors import BadInputError, EvocodecError
from flows.commands.results import leaderboard_table
from flows.local import LocalLab, prefect_api
from tasks.analyze.leaderboard import standings
from tasks.campaign import Campaign
from tasks.store.store import Store

CHECK_SECONDS = 1.0


def run_command(campaign: Campaign, console: Console, *, server: str, port: int | None, home: Path) -> None:
    """Run `campaign` to its end, then print the leaderboard and where everything is.

    Raises BadInputError before anything is started where the clips or the store cannot be used, EvocodecError where the
    campaign failed.
    """
    started = time.monotonic()
    store = Store.open(campaign.store, create=True)
    _stop_on_sigterm()
    with ExitStack() as stack:
        if server:
            _answering(server)
            stack.enter_context(prefect_api(server))
            ui_url, lab = server.removesuffix("/api"), None
        else:
            _check_clips(campaign, console)
            status = console.status("starting")
            with status:
                lab = stack.enter_context(_lab(console, campaign.store, home, port, status.update))
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
        raise EvocodecError(f"campaign {campaign.name!r} failed: {outcome.message}; logs: {home / 'logs'}")
    _print_end(campaign, store, console, home, time.monotonic() - started, local=lab is not None)


def up_command(console: Console, *, port: int, store: str, home: Path) -> None:
    """Keep a lab running until it is interrupted; restart its workers where they die."""
    _stop_on_sigterm()
    Store.open(store, create=True)
    status = console.status("starting")
    with status:
        lab = _lab(console, store, home, port, status.update)
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


def _lab(console: Console, store: str, home: Path, port: int | None, on_step: object) -> LocalLab:
    return LocalLab(home, port=port, store_needs_cloud_keys=store.startswith("s3://"), on_step=on_step)  # type: ignore[arg-type]


def _check_clips(campaign: Campaign, console: Console) -> None:
    """Open each clip as the worker will: a bad one costs a second here and a started server there."""
    from codec.video import open_video

    for name in campaign.clips:
        if name != "demo":
            with open_video(name) as reader:
                for warning in reader.warnings:
                    console.print(f"{name}: {warning}", style="yellow")


def _answering(server: str) -> None:
    try:
        healthy = httpx.get(f"{server}/health", timeout=5).status_code == httpx.codes.OK
    except (httpx.HTTPError, httpx.InvalidURL):
        healthy = False
    if not healthy:
        raise BadInputError(
            f"no Prefect server answers at {server}: start one with `evocodec up`, or give the URL that ends in /api"
        )


def _stop_on_sigterm() -> None:
    """`kill PID` must stop the lab as cleanly as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, interrupt)
        # Ignored where the shell started us in the background of a script; the lab must still be stoppable.
        signal.signal(signal.SIGINT, interrupt)


def _print_end(campaign: Campaign, store: Store, console: Console, home: Path, seconds: float, *, local: bool) -> None:
    from tasks.analyze.report import write_report

    board = standings(
        store.experiments(campaign.name),
        store.points(campaign.name),
        campaign.targets,
        scenes=store.scenes(campaign.name),
    )
    console.print(leaderboard_table(campaign.name, board))
    home.mkdir(parents=True, exist_ok=True)
    report = (home / f"report-{campaign.name}.html").resolve()
    write_report(report, store, campaign.name)
    console.print(f"report   {report}")
    console.print(f"records  {campaign.store}  (evocodec results --campaign {campaign.name})")
    console.print("UI       evocodec up, then http://127.0.0.1:4200" if local else "UI       stays on the server")
    console.print(f"took     {seconds:.0f} s")
