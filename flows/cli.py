"""`evocodec …`: the command line. Each command imports what it needs when it runs, so that --help is quick.

Exit codes: 0 good, 1 the work failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from codec.errors import BadInputError, EvocodecError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from tasks.campaign import Campaign

app = typer.Typer(
    help="An autonomous laboratory for video codecs, and the codec it improves.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

INTERRUPTED = 130
DEFAULT_HOME = Path(".evocodec")
DEFAULT_STORE = "./.evocodec/store"

StoreOption = Annotated[str, typer.Option("--store", envvar="EVOCODEC_STORE", help="Folder or s3://bucket/prefix.")]
HomeOption = Annotated[Path, typer.Option("--home", envvar="EVOCODEC_HOME", help="Where the local server lives.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ClipOption = Annotated[
    list[str] | None, typer.Option("--clip", help="A video file (repeatable); default: the demo clip.")
]


@app.command()
def run(
    clip: ClipOption = None,
    campaign: Annotated[str, typer.Option(help="Name of the records; the same name resumes.")] = "demo",
    iterations: Annotated[int, typer.Option(help="Turns of design, dispatch, wait, analyze.")] = 2,
    candidates: Annotated[int, typer.Option(help="Candidates per iteration (1-8).")] = 3,
    designer: Annotated[str, typer.Option(help="What proposes candidates.")] = "search",
    store: StoreOption = DEFAULT_STORE,
    max_frames: Annotated[int, typer.Option(help="Use only this many frames of each clip.")] = 128,
    server: Annotated[str, typer.Option(help="API URL of a running Prefect server; default: start one.")] = "",
    port: Annotated[int | None, typer.Option(help="Port of the server that is started; default: any free one.")] = None,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Run a campaign: design, dispatch, wait, analyze, until done or the targets hold."""
    settings = _campaign(
        name=campaign,
        clips=tuple(_absolute(name) if name != "demo" else name for name in clip or ["demo"]),
        iterations=iterations,
        candidates=candidates,
        designer=designer,
        store=_store_uri(store),
        max_frames=max_frames,
    )
    from flows.commands.run import run_command

    run_command(settings, _console(), server=server, port=port, home=home)


@app.command()
def up(
    port: Annotated[int, typer.Option(help="Port of the Prefect UI and API.")] = 4200,
    store: StoreOption = DEFAULT_STORE,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Keep a server and workers running, for use from the Prefect UI, until Ctrl-C."""
    from flows.commands.run import up_command

    up_command(_console(), port=port, store=_store_uri(store), home=home)


@app.command("demo-clip")
def demo_clip_command(out: Annotated[Path, typer.Argument(help="A .y4m, .mkv or .mp4 file.")]) -> None:
    """Write the demo clip: four scenes, 320×180, 25 frames per second."""
    from codec.demo_clip import demo_clip
    from codec.video import write_video

    video, frames = demo_clip()
    count = write_video(out, video, [frames])
    print(f"{out}: {count} frames, {video.width}×{video.height}, {video.frame_rate} frames per second")


@app.command()
def encode(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Any video that FFmpeg reads.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.evc")],
    strategy: Annotated[str, typer.Option(help="x264, x265, av1 or vvc.")] = "av1",
    quality: Annotated[float, typer.Option(help="0 (small) to 1 (good).")] = 0.5,
    preset: Annotated[str | None, typer.Option(help="The encoder's own speed preset.")] = None,
    scale: Annotated[str, typer.Option(help="Coded size: 1, 3/4, 2/3 or 1/2.")] = "1",
) -> None:
    """Compress a video into an .evc file."""
    from codec.config import CodecConfig
    from codec.encoding_agent import EncodingAgent
    from codec.video import open_video
    from codec.whole_file import whole_file

    config = CodecConfig.parse({"strategy": strategy, "quality": quality, "preset": preset, "scale": scale})
    with open_video(source) as reader, whole_file(out) as partial, partial.open("w+b") as sink:
        for warning in reader.warnings:
            _warn(f"{source}: {warning}")
        with _bar("encoding", reader.frame_count) as (progress, task):
            report = EncodingAgent(config).encode(
                reader, reader.format, sink, lambda frames: progress.update(task, completed=frames)
            )
        size = sink.seek(0, os.SEEK_END)
    frames = sum(scene.frames for scene in report.scenes)
    kbps = size * 8 * float(reader.format.frame_rate) / frames / 1000
    print(f"{out}: {frames} frames in {len(report.scenes)} scenes, {size} bytes, {kbps:.1f} kbps")


@app.command()
def decode(
    source: Annotated[Path, typer.Argument(metavar="IN.evc")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A .y4m, .mkv (FFV1) or .mp4 (lossless H.264) file.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Check each scene against the hash its encoder left.")
    ] = False,
) -> None:
    """Decompress an .evc file; every output format is lossless."""
    from codec.bitstream import EvcReader
    from codec.decoding_agent import DecodingAgent
    from codec.frames import Frames
    from codec.video import write_video

    with _open_evc(source) as file:
        header = EvcReader(file).header
        file.seek(0)
        with _bar("decoding", header.frame_count) as (progress, task):

            def scenes() -> Iterator[Frames]:
                for scene in DecodingAgent().decode(file, verify=verify):
                    if scene.frames is not None:
                        progress.update(task, advance=len(scene.frames))
                        yield scene.frames

            count = write_video(out, header.video, scenes())
    print(f"{out}: {count} frames{', every scene verified' if verify else ''}")


@app.command()
def info(source: Annotated[Path, typer.Argument(metavar="FILE.evc")], as_json: JsonOption = False) -> None:
    """Show what an .evc file holds, scene by scene."""
    from codec.bitstream import describe

    with _open_evc(source) as file:
        facts = describe(file)
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        if name != "scenes":
            print(f"{name:<14} {value}")
    for scene in facts["scenes"]:
        print("  ".join(f"{name} {value}" for name, value in scene.items()))


@app.command()
def measure(
    reference: Annotated[Path, typer.Argument(help="The original.")],
    distorted: Annotated[Path, typer.Argument(metavar="DISTORTED_OR_EVC", help="What came out, or an .evc file.")],
    as_json: JsonOption = False,
) -> None:
    """Measure bitrate and quality: PSNR (pooled), SSIM-Y (Gaussian window), VMAF."""
    from flows.commands.measure import measure_files

    facts = measure_files(reference, distorted, _warn)
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        print(f"{name:<9} {'not measured' if value is None else f'{value:.4f}' if isinstance(value, float) else value}")


@app.command("try")
def try_command(
    folder: Annotated[Path, typer.Argument(help="A candidate: encoder.py, decoder.py, config.json.")],
    clip: ClipOption = None,
    max_frames: Annotated[int, typer.Option(help="Use only this many frames of each clip.")] = 128,
    unsafe_no_sandbox: Annotated[
        bool,
        typer.Option(
            "--unsafe-no-sandbox", help="Run the code as you, with all your rights. Never code you have not read."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Put one hand-written candidate through the full evaluator, without a server and without keeping a record."""
    from flows.commands.try_folder import try_folder

    console = _console(stderr=True)
    if not try_folder(folder, clip or ["demo"], max_frames, console, as_json=as_json, unsafe=unsafe_no_sandbox):
        raise typer.Exit(1)


@app.command()
def results(
    campaign: Annotated[str | None, typer.Option(help="Only this campaign.")] = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Show what the store holds: the leaderboard of each campaign."""
    from flows.commands.results import print_results

    print_results(_store_uri(store), campaign, _console(), as_json=as_json)


@app.command()
def report(
    out: Annotated[Path, typer.Option("--out", help="An .html file; it opens without a network.")],
    campaign: Annotated[str, typer.Option(help="The campaign to report on.")] = "demo",
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write a campaign's report: leaderboard, rate-distortion curves, failures, costs."""
    from tasks.analyze.report import write_report
    from tasks.store.store import Store

    write_report(out, Store.open(_store_uri(store)), campaign)
    print(out)


@app.command()
def doctor(store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """Check this machine: one line for each part, with the remedy where something is missing."""
    from flows.commands.doctor import diagnose

    findings = diagnose(_store_uri(store))
    if as_json:
        print(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.ok else finding.severity:<5} {finding.part:<16} {finding.text}")
    if any(not finding.ok and finding.severity == "FAIL" for finding in findings):
        raise typer.Exit(1)


def main() -> NoReturn:
    """The entry point: one clear line for every error that is understood, a traceback only for those that are not."""
    try:
        app(standalone_mode=True)
    except EvocodecError as error:
        print(f"evocodec: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # Typer turns Ctrl-C into this code and says nothing
            print("evocodec: interrupted", file=sys.stderr)
        raise
    except BrokenPipeError:
        # The reader of our output has gone; that is no error of ours, and flushing again would raise once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(0)


def _campaign(**fields: Any) -> Campaign:
    from pydantic import ValidationError

    from tasks.campaign import Campaign

    try:
        return Campaign(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInputError(f"--{'-'.join(map(str, first['loc'])).replace('_', '-')}: {first['msg']}") from error


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).resolve())


def _store_uri(uri: str) -> str:
    return _absolute(uri)


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def _warn(text: str) -> None:
    print(f"evocodec: warning: {text}", file=sys.stderr)


@contextmanager
def _bar(what: str, total: int | None) -> Iterator[tuple[Progress, Any]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = _console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield progress, progress.add_task(what, total=total)


@contextmanager
def _open_evc(path: Path) -> Iterator[Any]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}") from error
    with file:
        yield file


if __name__ == "__main__":
    main()
