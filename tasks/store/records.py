"""The records: three tables of plain rows, and nothing that can be derived from them; and one of what was moved in.

Invariants:
- every attempt is one append-only experiment row, also an attempt that never ran;
- only `measured` has points; all other statuses have no scores (absent, never 0);
- the state of a campaign is a fold over its rows;
- what another system measured is no experiment: its rows are in a table of their own, which nothing that compares,
  ranks, counts or designs opens.
Where rows are kept is `tasks.store.store`'s.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1

Status = Literal["rejected", "duplicate", "invalid", "crashed", "timeout", "cheat", "infrastructure", "measured"]
# A control is measured beside a candidate to compare it with, on the same draw; a verification is decoding a
# candidate's kept bytes again. Insights are a language model's rewriting of the ledger, here for what it cost; they
# have no points. None of these is an idea, so none has a rank.
Kind = Literal["candidate", "anchor", "control", "verification", "insights"]
# Which clips: those a designer sees, those that decide a promotion, those that are a user's last word.
Split = Literal["dev", "select", "sealed"]
Track = Literal["overfitted", "amortised"]
# The stage of an attempt that was told to stop from outside, as by a spot instance's notice: it has done nothing wrong.
INTERRUPTED = "interrupted"
StageName = Literal["check", "train", "tiny", "duplicate", "short", "dev", "canaries", "repeat", "select", "sealed"]


class Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Stage(Row):
    """One step of the cascade: how it came out and what it cost. `note` is one line."""

    name: StageName
    passed: bool
    seconds: float = Field(description="Wall clock on the worker.")
    note: str = ""


class ExperimentRecord(Row):
    """One attempt: who proposed it, what it was, how far it came, what it cost."""

    campaign: str
    experiment_id: str
    kind: Kind = "candidate"
    iteration: int = 0
    attempt: int = 1
    status: Status
    reason: str = Field("", description="Why it is not `measured`, in one line; empty when it is.")
    stage: str = Field("", description="The last stage reached: of the cascade, or of one rate point in it.")
    stages: tuple[Stage, ...] = Field((), description="The cascade as far as it came, each step with its cost.")
    designer: str = ""
    parents: tuple[str, ...] = ()
    change_class: str = ""
    hypothesis: str = ""
    predicted_bd_rate_percent: float | None = None
    predicted_tera_ops_per_frame: float | None = None
    candidate_hash: str = ""
    code_hash: str = ""
    ast_hash: str = Field("", description="Of the code in normal form with its config: equal for the same idea.")
    decoder_source_bytes: int | None = None
    decoder_compressed_bytes: int | None = Field(None, description="The decoder's source under LZMA.")
    decoder_hash: str = Field("", description="SHA-256 of the decoder's source, taken before anything was encoded.")
    track: Track = Field("overfitted", description="Amortised: with weights that are not in the bitstream.")
    weights_bytes: int = 0
    weights_hash: str = Field("", description="SHA-256 of those weights, frozen before anything was measured.")
    noise_percent: dict[str, float] = Field(
        default_factory=dict, description="By clip: how far apart the curves of two encodes by the same candidate lie."
    )
    config_json: str = "{}"
    clip_set_hash: str = ""
    harness_version: str = ""
    isolation: str = ""
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    gpu_seconds: float = Field(0.0, description="Wall-clock seconds the experiment held its worker.")
    log: str = Field("", description="The end of what its processes printed, truncated.")
    host: str = ""
    flow_run_id: str = ""
    started_at: datetime
    finished_at: datetime

    @property
    def interrupted(self) -> bool:
        return self.status == "infrastructure" and self.stage == INTERRUPTED


class PointRecord(Row):
    """One experiment × clip × rate point. Formulas are DESIGN's: see `codec.quality`."""

    campaign: str
    experiment_id: str
    clip: str = Field(description="Name of the clip as the user gave it.")
    clip_hash: str = Field(description="SHA-256 of the frames that were measured.")
    split: Split = "dev"
    quality: float = Field(description="The rate knob; for an anchor, its position in [0, 1] among its rate points.")
    width: int
    height: int
    frames: int
    frames_per_second: float
    bytes_total: int = Field(description="Length of the real bytes.")
    bytes_by_strategy: dict[str, int] = Field(default_factory=dict, description="Payload bytes per strategy.")
    kbps: float
    psnr_y: float
    psnr_u: float
    psnr_v: float
    psnr_yuv: float
    psnr_y_frame_mean: float
    psnr_y_worst: float
    ssim_y: float
    ms_ssim_y: float | None = None
    vmaf: float | None = None
    tera_ops_per_frame: float | None = Field(
        None, description="Per 1080p frame, the larger of the two counts; None: no network."
    )
    tera_ops_thop: float | None = None
    tera_ops_flop_counter: float | None = None
    tera_ops_by_module: dict[str, float] = Field(
        default_factory=dict, description="The larger count by the decoder's modules; empty: none, or an older row."
    )
    encode_seconds: float
    decode_seconds: float
    decode_fps: float
    bitstream_hash: str = ""
    decoded_hash: str = Field("", description="SHA-256 of the decoded planar frames.")
    claimed_json: str = Field("{}", description="What the candidate said of itself; never used.")


class SceneRecord(Row):
    """One scene of one point: what it is like, what was chosen for it, and how it came out."""

    campaign: str
    experiment_id: str
    clip: str
    split: Split = "dev"
    quality: float
    scene: int
    first_frame: int
    frames: int
    features: dict[str, float] = Field(default_factory=dict)
    strategies_tried: tuple[str, ...] = ()
    strategy: str | None = Field(None, description="None where the candidate's bytes are not an .evc file.")
    why: str = ""
    bytes_total: int | None = None
    kbps: float | None = None
    psnr_y: float
    ssim_y: float


class ImportedRecord(Row):
    """One experiment of the older generation, as it was found there. Whatever it says of results is a claim."""

    campaign: str
    experiment_id: str = Field(description="Names it here: its old id, fit for a file, and part of a hash.")
    attempt: int = Field(1, description="Counts its versions: one that has changed there since is imported again.")
    origin: str = Field(description="Where it was found: dynamodb://TABLE or sqs://QUEUE.")
    older_id: str
    older_timestamp: str = Field("", description="As it stood there; with the id, the key of its row.")
    older_status: str = Field("", description="What it was there: processing, completed, failed …; empty: not told.")
    clip: str = Field("", description="The video it was for, as it was named there.")
    claimed_json: str = Field("{}", description="The results as they stood there, by another yardstick; never used.")
    row_hash: str = Field(description="SHA-256 of the whole row as JSON, which is kept as a blob.")
    candidate_hash: str = Field("", description="Its code behind today's contract; empty: see `code_problem`.")
    code_problem: str = Field("", description="Why its code is no candidate, in one line.")
    older_started_at: datetime | None = None
    imported_at: datetime


VERIFIED = ".verified"


def verification_id(experiment_id: str) -> str:
    """The id under which decoding this experiment again is recorded."""
    return experiment_id + VERIFIED
