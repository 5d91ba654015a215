"""From real bytes and real frames to the rows of one rate point.

Owns the rate, and where in a stream its bytes went. The formulas of quality are `codec.quality`'s, the syntax of .evc
is `codec.bitstream`'s. Nothing a candidate says enters a number here.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from codec.bitstream import EvcReader, SceneEntry
from codec.errors import BitstreamError
from codec.frames import Frames
from codec.quality import Quality, measure_quality
from codec.strategies import by_code, name_of
from tasks.execute.clips import LoadedClip, Scene
from tasks.store.records import PointRecord, SceneRecord, Split

if TYPE_CHECKING:
    from codec.strategies.elementary import ElementaryStrategy


@dataclass(frozen=True)
class CodedScene:
    """A scene of an .evc file, and the bytes that it is charged."""

    entry: SceneEntry
    bytes: int


@dataclass(frozen=True)
class CodedClip:
    """One clip coded and decoded at one rate point.

    decoded         what came out of the decoder, of the clip's size and frame count
    encode_seconds  wall clock of the agents, with the import of their sources and without starting their process
    claimed_json    what the encoder said of itself
    """

    quality: float
    bitstream: bytes
    decoded: Frames
    encode_seconds: float
    decode_seconds: float
    claimed_json: str = "{}"


def score(
    clip: LoadedClip,
    coded: CodedClip,
    *,
    campaign: str,
    experiment_id: str,
    split: Split = "dev",
    elementary_only: bool = False,
) -> tuple[PointRecord, tuple[SceneRecord, ...]]:
    """The point and its scenes, without decoder operations.

    `elementary_only` charges an .evc file its elementary streams alone, as their encoder wrote them: what an anchor is
    judged by. Raises
    BitstreamError where that is asked for and the bytes are not an .evc file, MeasurementError where VMAF fails.
    """
    coded_scenes = _coded_scenes(coded.bitstream, elementary_only)
    by_strategy: Counter[str] = Counter()
    for part in coded_scenes:
        by_strategy[name_of(part.entry.strategy)] += part.bytes
    bytes_total = by_strategy.total() if elementary_only else len(coded.bitstream)
    quality = measure_quality(clip.frames, coded.decoded, clip.video, vmaf_threads=1)
    point = PointRecord(
        campaign=campaign,
        experiment_id=experiment_id,
        clip=clip.name,
        clip_hash=clip.content_hash,
        split=split,
        quality=coded.quality,
        width=clip.video.width,
        height=clip.video.height,
        frames=quality.frames,
        frames_per_second=float(clip.video.frame_rate),
        bytes_total=bytes_total,
        bytes_by_strategy=dict(by_strategy),
        kbps=_kbps(bytes_total, quality.frames, clip),
        psnr_y=quality.psnr_y,
        psnr_u=quality.psnr_u,
        psnr_v=quality.psnr_v,
        psnr_yuv=quality.psnr_yuv,
        psnr_y_frame_mean=quality.psnr_y_frame_mean,
        psnr_y_worst=quality.psnr_y_worst,
        ssim_y=quality.ssim_y,
        ms_ssim_y=quality.ms_ssim_y,
        vmaf=quality.vmaf,
        tera_ops_per_frame=None,
        encode_seconds=coded.encode_seconds,
        decode_seconds=coded.decode_seconds,
        decode_fps=quality.frames / max(coded.decode_seconds, 1e-6),
        bitstream_hash=hashlib.sha256(coded.bitstream).hexdigest(),
        decoded_hash=hashlib.sha256(coded.decoded.to_bytes()).hexdigest(),
        claimed_json=coded.claimed_json,
    )
    scenes = tuple(
        _scene_record(point, clip, index, scene, _scene_quality(clip, coded, scene, quality), coded_scenes)
        for index, scene in enumerate(clip.scenes)
    )
    return point, scenes


def _scene_record(
    point: PointRecord,
    clip: LoadedClip,
    index: int,
    scene: Scene,
    quality: Quality,
    coded_scenes: tuple[CodedScene, ...],
) -> SceneRecord:
    covering = next((part for part in coded_scenes if _covers(part.entry, scene)), None)
    # A longer entry's bytes cannot be divided among the scenes that it covers.
    same = covering is not None and covering.entry.frame_count == scene.frames
    bytes_total = covering.bytes if covering is not None and same else None
    return SceneRecord(
        campaign=point.campaign,
        experiment_id=point.experiment_id,
        clip=point.clip,
        split=point.split,
        quality=point.quality,
        scene=index,
        first_frame=scene.first_frame,
        frames=scene.frames,
        features=dict(scene.features),
        strategy=name_of(covering.entry.strategy) if covering is not None else None,
        bytes_total=bytes_total,
        kbps=_kbps(bytes_total, scene.frames, clip) if bytes_total is not None else None,
        psnr_y=quality.psnr_y,
        ssim_y=quality.ssim_y,
    )


def _scene_quality(clip: LoadedClip, coded: CodedClip, scene: Scene, of_clip: Quality) -> Quality:
    if scene.frames == of_clip.frames:
        return of_clip
    return measure_quality(
        clip.frames[scene.span], coded.decoded[scene.span], clip.video, with_vmaf=False, with_ms_ssim=False
    )


def _covers(entry: SceneEntry, scene: Scene) -> bool:
    last = scene.first_frame + scene.frames
    return entry.first_frame <= scene.first_frame and last <= entry.first_frame + entry.frame_count


def _coded_scenes(bitstream: bytes, elementary_only: bool) -> tuple[CodedScene, ...]:
    """The scenes of a well-formed .evc file; none where the bytes are something else, which a candidate's may be."""
    if elementary_only:
        reader = EvcReader(io.BytesIO(bitstream))
        return tuple(CodedScene(entry, _elementary_bytes(reader, entry)) for entry in reader.scenes())
    try:
        return tuple(CodedScene(entry, entry.payload_bytes) for entry in EvcReader(io.BytesIO(bitstream)).scenes())
    except BitstreamError:
        return ()


def _elementary_bytes(reader: EvcReader, entry: SceneEntry) -> int:
    """The length of the stream as its encoder wrote it, which the file may hold packed."""
    strategy = cast("ElementaryStrategy", by_code(entry.strategy))
    return len(strategy.stream_of(reader.payload(entry), entry.frame_count))


def _kbps(size: int, frames: int, clip: LoadedClip) -> float:
    return float(8 * size * clip.video.frame_rate / frames / 1000)
