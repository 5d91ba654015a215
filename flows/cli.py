"""`evocodec …`: the command line. Each command imports what it needs when it runs, so that --help is quick.

Exit codes: 0 good, 1 the work failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from codec.errors import BadInputError, BitstreamError, EvocodecError

if TYPE_CHECKING:
    from rich.console import Console

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
Audio = Literal["copy", "none"]
Device = Literal["cpu", "cuda"]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RegionOption = Annotated[str | None, typer.Option("--region", help="AWS region; default: that of the environment.")]
EndpointOption = Annotated[str | None, typer.Option("--endpoint-url", help="Another server that speaks AWS's API.")]
FramesOption = Annotated[
    str | None,
    typer.Option("--frames", help="What old code takes: rgb_float (v2), rgb_uint8 (v1), bgr_uint8, ycbcr_uint8."),
]
KnobOption = Annotated[
    str | None, typer.Option("--knob", help="The old config's rate knob, as NAME=LOW:HIGH; low is at quality 0.")
]
CandidatesOption = Annotated[
    Path | None, typer.Option("--candidates", help="A folder: write what can be measured there, for `evocodec try`.")
]
ClipOption = Annotated[
    list[str] | None, typer.Option("--clip", help="A video file (repeatable); default: the demo clip.")
]


@app.command()
def run(
    clip: ClipOption = None,
    select: Annotated[
        list[str] | None, typer.Option(help="A clip that no designer sees and that decides promotion (repeatable).")
    ] = None,
    sealed: Annotated[
        list[str] | None, typer.Option(help="A clip measured once, at the end, for the champion (repeatable).")
    ] = None,
    train: Annotated[
        list[str] | None, typer.Option(help="A clip for candidates' trainers, and nothing else (repeatable).")
    ] = None,
    campaign: Annotated[str, typer.Option(help="Name of the records; the same name resumes.")] = "demo",
    iterations: Annotated[int, typer.Option(min=1, max=1000, help="Turns of design, dispatch, wait, analyze.")] = 2,
    candidates: Annotated[int, typer.Option(min=1, max=8, help="Candidates per iteration.")] = 3,
    designer: Annotated[
        str, typer.Option(help="What proposes candidates: search; or anthropic or openai, with their key.")
    ] = "search",
    model: Annotated[str, typer.Option(help="The language model; default: the designer's own choice.")] = "",
    max_usd: Annotated[float | None, typer.Option(help="Cap on what language models charge, in dollars.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Cap on their tokens, in and out.")] = None,
    max_gpu_seconds: Annotated[float | None, typer.Option(help="Cap on the time that attempts hold a worker.")] = None,
    max_experiments: Annotated[int | None, typer.Option(help="Cap on the candidates tried.")] = None,
    store: StoreOption = DEFAULT_STORE,
    max_frames: Annotated[int, typer.Option(min=1, max=3600, help="Use only this many frames of each clip.")] = 128,
    server: Annotated[str, typer.Option(help="API URL of a running Prefect server; default: start one.")] = "",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of that server; default: any free one.")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Run a campaign: design, dispatch, wait, analyze, until done or the targets hold."""
    settings = _campaign(
        name=campaign,
        clips=_clip_names(clip or ["demo"]),
        select=_clip_names(select or []),
        sealed=_clip_names(sealed or []),
        train=_clip_names(train or []),
        iterations=iterations,
        candidates=candidates,
        designer=designer,
        model=model,
        budget={
            "usd": max_usd,
            "tokens": max_tokens,
            "gpu_seconds": max_gpu_seconds,
            "experiments": max_experiments,
        },
        store=_store_uri(store),
        max_frames=max_frames,
    )
    from flows.commands.run import run_command

    run_command(settings, _console(), server=server, port=port, home=home)


@app.command()
def up(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the Prefect UI and API.")] = 4200,
    cloud_keys: Annotated[
        bool, typer.Option("--cloud-keys", help="Let workers see AWS credentials: for campaigns with a store on S3.")
    ] = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Keep a server and workers running, for use from the Prefect UI, until Ctrl-C."""
    from flows.commands.run import up_command

    up_command(_console(), port=port, cloud_keys=cloud_keys, home=home)


@app.command()
def deploy(
    target: Annotated[
        str, typer.Option(help="What runs the gpu pool: local (processes) or aws (ECS tasks).")
    ] = "local",
    stack: Annotated[str, typer.Option(help="The CloudFormation stack, with --target aws.")] = "evocodec",
    server: Annotated[
        str,
        typer.Option(envvar="PREFECT_API_URL", help="API URL of the server; default: the stack's, or port 4200."),
    ] = "",
    image_tag: Annotated[str, typer.Option(help="Which image GPU tasks run; default: the stack's own.")] = "",
) -> None:
    """Make the work pools and register the deployments on a Prefect server; again after every change."""
    from flows.commands.deploy import deploy_command

    if target not in ("local", "aws"):
        raise BadInputError(f"--target {target}: give local or aws")
    deploy_command(target, _console(), server=server, stack=stack, image_tag=image_tag)  # type: ignore[arg-type]


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
    quality: Annotated[
        float | None, typer.Option(help="0 (small) to 1 (good); 0.5 where nothing is asked for.")
    ] = None,
    bitrate: Annotated[
        float | None, typer.Option(help="Kilobits a second of the whole file but its sound, within 3%.")
    ] = None,
    psnr: Annotated[float | None, typer.Option(help="PSNR-Y in dB of the whole clip, within 0.1.")] = None,
    ssim: Annotated[float | None, typer.Option(help="Mean SSIM-Y, within 0.001.")] = None,
    effort: Annotated[int | None, typer.Option(help="0 (quick) to 10 (everything); 4 where not given.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Scenes coded at once; same bytes, more memory.")] = 1,
    strategy: Annotated[str, typer.Option(help="auto: the best for each scene; or x264, x265, av1, vvc …")] = "auto",
    preset: Annotated[str | None, typer.Option(help="The encoder's own speed preset (not with auto).")] = None,
    scale: Annotated[str, typer.Option(help="Coded size: 1, 3/4, 2/3 or 1/2 (not with auto).")] = "1",
    report: Annotated[Path | None, typer.Option(help="A .json file: what was tried on each scene, and why.")] = None,
    audio: Annotated[Audio, typer.Option(help="copy keeps the sound as it is, beside what a rate counts.")] = "none",
    device: Annotated[
        Device, typer.Option(help="Where networks compute; decoders anywhere get the same frames.")
    ] = "cpu",
) -> None:
    """Compress a video into an .evc file, by quality or to a bitrate, a PSNR or an SSIM."""
    from codec.config import CodecConfig
    from codec.rate_control import Target
    from flows.commands.coding import EncodeOrder, encode_file

    asked = {"quality": quality, "bitrate": bitrate, "psnr": psnr, "ssim": ssim}
    given = [name for name, value in asked.items() if value is not None]
    if len(given) > 1:
        raise BadInputError(f"--{' and --'.join(given)} exclude each other: give one")
    if effort is not None and strategy != "auto":
        raise BadInputError(f"--effort is auto's: leave it out with --strategy {strategy}")
    settings = {"strategy": strategy, "quality": quality, "effort": effort, "preset": preset, "scale": scale}
    config = CodecConfig.parse({name: value for name, value in settings.items() if value is not None})
    target = None
    if bitrate is not None:
        target = Target("kbps", bitrate)
    elif psnr is not None:
        target = Target("psnr_y", psnr)
    elif ssim is not None:
        target = Target("ssim_y", ssim)
    order = EncodeOrder(target, workers, report, audio == "copy", device)
    print(encode_file(source, out, config, _console(stderr=True), _warn, order))


@app.command()
def decode(
    source: Annotated[Path, typer.Argument(metavar="IN.evc")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A .y4m, .mkv (FFV1) or .mp4 (lossless H.264) file.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Check each scene against the hash its encoder left.")
    ] = False,
    conceal: Annotated[
        bool, typer.Option("--conceal", help="Show what is damaged or missing as grey and go on; exit code 1.")
    ] = False,
    audio: Annotated[Audio, typer.Option(help="copy puts the sound, if there is any, into .mkv or .mp4.")] = "copy",
    device: Annotated[Device, typer.Option(help="Where networks compute; the frames are the same.")] = "cpu",
) -> None:
    """Decompress an .evc file; every output format is lossless."""
    from flows.commands.coding import DecodeOrder, decode_file

    sound = audio == "copy"
    order = DecodeOrder(verify, conceal, sound, device)
    line, lost = decode_file(source, out, _console(stderr=True), _warn, order)
    print(line)
    if lost:
        raise typer.Exit(1)


@app.command()
def info(source: Annotated[Path, typer.Argument(metavar="FILE.evc")], as_json: JsonOption = False) -> None:
    """Show what an .evc file holds, scene by scene; exit code 2 where it is damaged."""
    from flows.commands.coding import describe_file

    facts = describe_file(source)
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        for name, value in facts.items():
            if name not in ("scenes", "error"):
                print(f"{name:<14} {value}")
        for scene in facts["scenes"]:
            print("  ".join(f"{name} {value}" for name, value in scene.items()))
    if facts["error"] is not None:
        raise BitstreamError(f"{source}: {facts['error']}")


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
        print(
            f"{name:<11} {'not measured' if value is None else f'{value:.4f}' if isinstance(value, float) else value}"
        )


@app.command("try")
def try_command(
    folder: Annotated[Path, typer.Argument(help="A candidate: encoder.py, decoder.py, config.json.")],
    clip: ClipOption = None,
    max_frames: Annotated[int, typer.Option(min=1, max=3600, help="Use only this many frames of each clip.")] = 128,
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
def prompt(
    campaign: Annotated[str, typer.Option(help="The campaign to be designed for.")] = "demo",
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Print what a language model would be sent for the next candidate; needs no key and no network."""
    from flows.commands.prompt import print_prompt

    print_prompt(_store_uri(store), campaign, as_json=as_json)


@app.command("seed")
def seed_command(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER", help="Candidates, 1 to 8.")],
    campaign: Annotated[str, typer.Option(help="The campaign, begun or not.")] = "demo",
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Have the next iteration of a campaign measure candidates of your own."""
    from tasks.candidate import Candidate
    from tasks.design.seeding import seed
    from tasks.store.store import Store

    refs = seed(Store.open(_store_uri(store), create=True), campaign, [Candidate.load(folder) for folder in folders])
    for folder, ref in zip(folders, refs, strict=True):
        print(f"{folder}: {ref.experiment_id}")


@app.command("import-code")
def import_code_command(
    source: Annotated[Path, typer.Argument(metavar="OLD", help="A .py file, or a folder with both agents.")],
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="The candidate; a new folder.")],
    config: Annotated[Path | None, typer.Option(help="The old config, a .json file.")] = None,
    frames: FramesOption = None,
    knob: KnobOption = None,
) -> None:
    """Make a candidate of code written for the older generation."""
    from flows.commands.migrate import import_code

    import_code(source, out, config, frames=frames, knob=knob)
    print(f"{out}: measure it with `evocodec try {out}`")


@app.command("import-dynamodb")
def import_dynamodb_command(
    table: Annotated[str, typer.Argument(help="The old table of experiments; it is only read.")],
    region: RegionOption = None,
    endpoint_url: EndpointOption = None,
    campaign: Annotated[str, typer.Option(help="Where they are kept.")] = "imported",
    store: StoreOption = DEFAULT_STORE,
    candidates: CandidatesOption = None,
    frames: FramesOption = None,
    knob: KnobOption = None,
) -> None:
    """Bring the experiments of the older generation here; exit code 1 where a row could not be read."""
    from flows.commands.migrate import import_dynamodb, open_importer
    from tasks.migrate.sources import Table

    origin = f"dynamodb://{table}"
    importer = open_importer(_store_uri(store), campaign, origin, frames=frames, knob=knob)
    if not import_dynamodb(importer, Table(table, region=region, endpoint_url=endpoint_url), candidates):
        raise typer.Exit(1)


@app.command("import-sqs")
def import_sqs_command(
    queue_url: Annotated[str, typer.Argument(help="The old queue of jobs; what is kept is deleted there.")],
    region: RegionOption = None,
    endpoint_url: EndpointOption = None,
    campaign: Annotated[str, typer.Option(help="Where they are kept.")] = "imported",
    store: StoreOption = DEFAULT_STORE,
    candidates: CandidatesOption = None,
    frames: FramesOption = None,
    knob: KnobOption = None,
) -> None:
    """Take jobs of the older generation as candidates; exit code 1 where one could not be and stayed."""
    from flows.commands.migrate import import_sqs, open_importer
    from tasks.migrate.sources import Queue

    origin = f"sqs://{queue_url.rstrip('/').rsplit('/', 1)[-1]}"
    importer = open_importer(_store_uri(store), campaign, origin, frames=frames, knob=knob)
    if not import_sqs(importer, Queue.open(queue_url, region=region, endpoint_url=endpoint_url), candidates):
        raise typer.Exit(1)


@app.command()
def doctor(
    store: StoreOption = DEFAULT_STORE,
    aws: Annotated[bool, typer.Option("--aws", help="Check what is deployed on AWS instead.")] = False,
    stack: Annotated[str, typer.Option(help="With --aws: the CloudFormation stack.")] = "evocodec",
    region: RegionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check this machine: one line for each part, with the remedy where something is missing."""
    if aws:
        from flows.commands.doctor_aws import diagnose_aws

        findings = diagnose_aws(stack, region)
    else:
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
    # Nothing calls out. Prefect's client would, from this very process, unless it is told before its first import.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # `kill PID` cleans up as Ctrl-C does; Ctrl-C works also where a script started us in the background.
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        app(standalone_mode=True)
    except EvocodecError as error:
        print(f"evocodec: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        # The loop's installation goes without what touches a frame.
        if error.name is None or error.name.partition(".")[0] in ("codec", "flows", "tasks"):
            raise
        print(f"evocodec: {error.name} is not installed: pip install 'evocodec[codec]'", file=sys.stderr)
        sys.exit(1)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # Typer turns Ctrl-C into this code and says nothing
            print("evocodec: interrupted", file=sys.stderr, flush=True)
            # Everything is cleaned up; an encoder's thread that is still busy must not keep the process.
            sys.stdout.flush()
            os._exit(INTERRUPTED)
        raise
    except BrokenPipeError:
        # The reader of our output has gone; that is no error of ours, and flushing again would raise once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(0)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _campaign(**fields: Any) -> Campaign:
    from pydantic import ValidationError

    from tasks.campaign import Campaign

    try:
        return Campaign(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = "max_" + str(first["loc"][-1]) if first["loc"][0] == "budget" else str(first["loc"][0])
        option = {"name": "campaign", "clips": "clip"}.get(where, where.replace("_", "-"))
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "string_pattern_mismatch":
            reason = "use letters, digits, dots, dashes and underscores, beginning with a letter or digit, at most 64"
        raise BadInputError(f"--{option} {first['input']}: {reason}") from error


def _clip_names(names: list[str]) -> tuple[str, ...]:
    return tuple(_absolute(name) if name != "demo" else name for name in names)


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().resolve())


def _store_uri(uri: str) -> str:
    if not uri:
        raise BadInputError("--store is empty: give a folder or s3://bucket/prefix")
    return _absolute(uri)


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def _warn(text: str) -> None:
    print(f"evocodec: warning: {text}", file=sys.stderr)


if __name__ == "__main__":
    main()
