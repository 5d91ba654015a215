"""`evocodec encode` and `decode`: files in and out, with progress, and nothing left behind when interrupted."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import timedelta
from fractions import Fraction
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn

from codec.audio import AudioTrack, take_audio
from codec.bitstream import EvcReader, SceneEntry, append_audio, describe
from codec.config import AUTO, CodecConfig
from codec.decoding_agent import DecodingAgent, LostEnd
from codec.encoding_agent import EncodeReport, EncodingAgent
from codec.errors import BadInputError, BitstreamError, EncodeError, LimitError
from codec.frames import Frames, VideoFormat
from codec.rate_control import UNIT, Reached, Target, encode_to_target, kbps
from codec.strategies.vvc_encoder import stop_encoders
from codec.video import VideoReader, open_container, open_video, write_video
from codec.whole_file import whole_file

Warn = Callable[[str], None]
Result = TypeVar("Result")

MID_GREY = 128
# A log gets no line sooner after the last: what ends quickly needs none, and a search has many short passes.
LOG_SECONDS = 10.0
# The same where the number of frames is not known, and with it no tenth of it.
LOG_SECONDS_UNKNOWN = 30.0


@dataclass(frozen=True)
class EncodeOrder:
    """What `encode_file` is asked besides the config.

    target   a bitrate or a quality to hit, instead of the config's quality
    workers  scenes coded side by side
    report   a .json file to tell what was tried and why
    audio    whether the source's sound is copied into the file; rates count the pictures alone
    device   where networks compute: "cpu" or "cuda"
    """

    target: Target | None = None
    workers: int = 1
    report: Path | None = None
    audio: bool = False
    device: str = "cpu"


@dataclass(frozen=True)
class DecodeOrder:
    """What `decode_file` is asked: to check hashes, to go on after damage, to write the sound, on which device."""

    verify: bool = False
    conceal: bool = False
    audio: bool = True
    device: str = "cpu"


def encode_file(
    source: Path, out: Path, config: CodecConfig, console: Console, warn: Warn, order: EncodeOrder | None = None
) -> str:
    """Compress `source` into `out`; the line to print. Raises BadInputError, also where `out` is no .evc name."""
    order = order or EncodeOrder()
    if out.suffix.lower() != ".evc":
        raise BadInputError(f"{out}: encode writes .evc files; give a name that ends in .evc")
    for written in (out, order.report):
        if written:
            _refuse_same_file(source, written)
    with (
        _computing_on(order.device),
        open_video(source) as reader,
        whole_file(out) as partial,
        partial.open("w+b") as sink,
    ):
        passes = _Passes(source, reader)
        with _bar(console, "encoding", reader.expected_frames) as advance_to:
            try:
                report, reached = _interruptible(lambda: _encode(passes, config, order, sink, advance_to))
            except EncodeError as error:
                hint = "" if config.strategy == AUTO else "; --strategy auto codes each scene with what can"
                raise EncodeError(f"{source}, {error}{hint}") from error
        for warning in passes.warnings:
            warn(f"{source}: {warning}")
        if reached and reached.miss:
            warn(f"{out}: {reached.miss}")
        size = sink.seek(0, os.SEEK_END)
        sound = _copy_audio(source, passes.start, sink, warn) if order.audio else ""
    rate = kbps(size, report.frames, reader.format.frame_rate)
    if order.report:
        _write_report(order.report, config, order, report, reached, rate)
    frames, scenes = _counted(report.frames, "frame"), _counted(len(report.scenes), "scene")
    asked = f", {reached.figure:.5g} {UNIT[reached.metric]} in {_counted(reached.passes, 'pass')}" if reached else ""
    return f"{out}: {frames} in {scenes}, {size} bytes, {rate:.1f} kbps{asked}{sound}"


def decode_file(source: Path, out: Path, console: Console, warn: Warn, order: DecodeOrder) -> tuple[str, bool]:
    """Decompress `source` into `out`; the line to print and whether anything was lost (never without `conceal`).

    A lost scene is mid-grey for the length that its header gives, so that everything after it keeps its place. Damage
    that leaves no way to the next scene makes all the rest grey, as far as the file's header counts.
    """
    _refuse_same_file(source, out)
    with _computing_on(order.device), open_evc(source) as file, TemporaryFile() as sound:
        header = EvcReader(file).header
        has_sound = order.audio and _audio_of(EvcReader(file), out, sound, warn, conceal=order.conceal)
        lost: list[SceneEntry | LostEnd] = []

        def frames(advance_to: Callable[[int], None]) -> Iterator[Frames]:
            for scene in DecodingAgent().decode(file, verify=order.verify, conceal=order.conceal):
                if scene.frames is None:
                    lost.append(scene.entry)
                    warn(f"{source}: {scene.error}; {_what_is_shown(scene.entry)}")
                    yield from repeat(_grey_frame(header.video), scene.entry.frame_count)
                else:
                    yield scene.frames
                advance_to(scene.entry.first_frame + scene.entry.frame_count)

        track = AudioTrack(sound) if has_sound else nullcontext()
        with _bar(console, "decoding", header.frame_count) as advance_to, track as audio_track:
            count = write_video(out, header.video, frames(advance_to), audio_track)
    verified = ", every scene verified" if order.verify and not lost else ""
    scenes = sum(isinstance(entry, SceneEntry) for entry in lost)
    losses = (f", {_counted(scenes, 'scene')} lost" if scenes else "") + (
        ", its end lost" if len(lost) > scenes else ""
    )
    return f"{out}: {count} frames{verified}{losses}", bool(lost)


@contextmanager
def _computing_on(device: str) -> Iterator[None]:
    """Networks compute there within the block. Raises BadInputError where it is not there, or has too little memory."""
    if device == "cpu":  # where they do anyway: torch is not imported for it
        yield
        return
    import torch

    from codec.networks.exact import compute_on

    compute_on(device)
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise BadInputError(f"{device} has too little memory for pictures of this size: use --device cpu") from error
    finally:
        compute_on("cpu")


def describe_file(source: Path) -> dict[str, Any]:
    """What an .evc file says of itself; `error` tells the first thing wrong with it, or is None."""
    with open_evc(source) as file:
        facts = describe(file)
    damaged = [index for index, scene in enumerate(facts["scenes"]) if not scene["crc_ok"]]
    if facts["error"] is None and damaged:
        facts["error"] = f"scene {damaged[0]} is damaged: its CRC does not match"
    return facts


@contextmanager
def open_evc(path: Path) -> Iterator[BinaryIO]:
    """The open file; errors of its syntax get its name."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}") from error
    with file:
        try:
            yield file
        except BitstreamError as error:
            raise BitstreamError(f"{path}: {error}") from error


class _Passes:
    """The frames of one file, as often as they are asked for. `warnings` are complete after a whole pass."""

    def __init__(self, path: Path, first: VideoReader) -> None:
        self._path = path
        self._first: VideoReader | None = first
        self.format = first.format
        self.start = first.start
        self.warnings: list[str] = first.warnings

    def __call__(self) -> Iterator[Frames]:
        reader, self._first = self._first, None
        with reader or open_video(self._path) as frames:
            yield from frames


def _copy_audio(source: Path, start: Fraction, sink: BinaryIO, warn: Warn) -> str:
    """Append the source's sound to a finished file; what to print of it."""
    with open_container(source) as container, TemporaryFile() as sound:
        names = take_audio(container, start, sound)
        if not names:
            warn(f"{source}: has no audio to copy")
            return ""
        return f", {append_audio(sink, sound)} bytes of {' and '.join(names)} audio"


def _encode(
    passes: _Passes, config: CodecConfig, order: EncodeOrder, sink: BinaryIO, advance_to: Callable[[int], None]
) -> tuple[EncodeReport, Reached | None]:
    if order.target:
        return encode_to_target(config, order.target, passes, passes.format, sink, advance_to, workers=order.workers)
    return EncodingAgent(config).encode(passes(), passes.format, sink, advance_to, workers=order.workers), None


def _audio_of(reader: EvcReader, out: Path, sound: BinaryIO, warn: Warn, *, conceal: bool) -> bool:
    """Whether the file has sound that can go into `out`; it lies in `sound` then."""
    has_place = out.suffix.lower() != ".y4m"
    try:
        entry = reader.audio()
    except BitstreamError as error:
        if not conceal or isinstance(error, LimitError):
            raise
        # Only a finished file has audio. What is damaged, decoding tells.
        if has_place and reader.header.frame_count:
            warn(f"{out}: audio, if the damaged file has any, is left out: it cannot be read")
        return False
    if entry is None:
        return False
    if not has_place:
        warn(f"{out}: .y4m has no place for audio; write .mkv or .mp4 to keep it")
        return False
    try:
        reader.copy_audio(entry, sound)
    except BitstreamError as error:
        if not conceal:
            raise
        warn(f"{error}; the audio is left out")
        return False
    sound.seek(0)
    return True


def _write_report(
    path: Path, config: CodecConfig, order: EncodeOrder, report: EncodeReport, reached: Reached | None, rate: float
) -> None:
    target = {**asdict(order.target), **asdict(reached)} if order.target and reached else None
    facts = {"config": config.model_dump(mode="json"), "target": target, "kbps": rate, **report.facts()}
    with whole_file(path) as partial:
        partial.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _interruptible(work: Callable[[], Result]) -> Result:
    """Run `work` in a thread and wait here: an encoder's C code can hold a whole scene before Python sees Ctrl-C."""
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - handed to the waiting thread, which raises it
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.2)  # a join without a timeout would not be interrupted
    except KeyboardInterrupt:
        stop_encoders()
        raise
    if errors:
        raise errors[0]
    return results[0]


def _what_is_shown(lost: SceneEntry | LostEnd) -> str:
    if isinstance(lost, SceneEntry):
        return "shown as grey"
    if not lost.frame_count:
        return "nothing more is shown"
    return f"frames {lost.first_frame} to {lost.first_frame + lost.frame_count - 1} are lost and shown as grey"


def _grey_frame(video: VideoFormat) -> Frames:
    """One frame, to be shown again and again: a few bytes can claim more of them than memory holds."""
    chroma = np.full((1, video.chroma_height, video.chroma_width), MID_GREY, np.uint8)
    return Frames(np.full((1, video.height, video.width), MID_GREY, np.uint8), chroma, chroma)


def _counted(number: int, thing: str) -> str:
    plural = "es" if thing.endswith("s") else "s"
    return f"{number} {thing}{'' if number == 1 else plural}"


def _refuse_same_file(source: Path, out: Path) -> None:
    if out.exists() and source.exists() and out.samefile(source):
        raise BadInputError(f"{out}: is the input itself; give the output another name")


@contextmanager
def _bar(console: Console, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        log = _Log(console)
        done, passes = 0, 1

        def advance_to(frames: int) -> None:
            nonlocal done, passes
            if frames < done:  # a search for a target begins again
                passes += 1
                progress.reset(task, total=done, description=f"{what}, pass {passes}")
            done = frames
            progress.update(task, completed=frames)
            if not console.is_terminal:
                log.tell(progress.tasks[0])

        yield advance_to


class _Log:
    """A plain line now and then where there is no terminal, and rich draws nothing: at most one for each tenth."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = time.monotonic()
        self._told: tuple[str, int] | None = None

    def tell(self, task: Task) -> None:
        """Print a line where one is due."""
        frames = int(task.completed)
        mark = (task.description, int(10 * frames / task.total) if task.total else frames)
        now = time.monotonic()
        due = now - self._last >= (LOG_SECONDS if task.total else LOG_SECONDS_UNKNOWN)
        if not due or mark[1] == 0 or mark == self._told or task.finished:
            return
        self._last, self._told = now, mark
        shown = f"{frames} frames"
        if task.total:
            left = timedelta(seconds=round((task.elapsed or 0) * (task.total - frames) / frames))
            shown = f"{frames / task.total:.0%}, {left} left"
        self._console.print(f"evocodec: {task.description}: {shown}")
