"""What a user asks for: the typed parameters of the flows. Their titles, bounds and texts are the Prefect UI's form.

Owns the words of a campaign; what happened in it is `tasks.store.records`'.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

CAMPAIGN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Quality = Annotated[float, Field(ge=0, le=1)]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Targets(Frozen):
    """What the loop works towards. Bitrates of other sizes are scaled linearly in pixels to 1080p at 30 fps."""

    kbps: float = Field(1000, gt=0, title="Bitrate (kbps)", description="At most this, scaled to 1080p at 30 fps.")
    psnr_db: float = Field(
        35, gt=0, le=100, title="PSNR-Y (dB)", description="At least this, MSE pooled over the clip."
    )
    ssim: float = Field(0.95, gt=0, le=1, title="SSIM-Y", description="At least this mean over the frames; 0 to 1.")
    tera_ops_per_frame: float = Field(
        1.33, gt=0, title="Decoder (tera-operations)", description="At most this per 1080p frame: 40 TOPS at 30 fps."
    )
    hevc_kbps: float = Field(
        10_000, gt=0, title="HEVC stream (kbps)", description="The stream that the codec is to undercut, at 1080p30."
    )
    hevc_saving: float = Field(
        0.9, ge=0, lt=1, title="Saving over HEVC", description="The part of it to be saved; 0 to 1."
    )


class Limits(Frozen):
    """What one process of a candidate may use before it is stopped."""

    train_seconds: float = Field(1800, gt=0, title="Training time (s)", description="Wall clock for one training.")
    weights_mb: int = Field(16, ge=1, title="Weights (MB)", description="The most that a trainer may return.")
    encode_seconds: float = Field(300, gt=0, title="Encode time (s)", description="Wall clock for one encode.")
    decode_seconds: float = Field(120, gt=0, title="Decode time (s)", description="Wall clock for one decode.")
    memory_mb: int = Field(8192, ge=256, title="Memory (MB)", description="Data segment of one process; 256 or more.")
    log_kb: int = Field(64, ge=1, title="Log (kB)", description="What is kept of a process's stdout and stderr.")


class ModelPrice(Frozen):
    """What a language model charges, in US dollars per million tokens."""

    input: float = Field(ge=0, title="Input", description="Tokens sent and kept in no cache.")
    output: float = Field(ge=0, title="Output", description="Tokens written, those of its thinking included.")
    cache_write: float = Field(ge=0, title="Cache write", description="Tokens sent and kept in the cache.")
    cache_read: float = Field(ge=0, title="Cache read", description="Tokens found in the cache.")


class Budget(Frozen):
    """The most that a campaign may spend over all its runs, work in flight included. Empty: no cap."""

    usd: float | None = Field(None, gt=0, title="Dollars", description="What language models charge, in USD.")
    tokens: int | None = Field(None, ge=1, title="Tokens", description="Sent to language models and written by them.")
    gpu_seconds: float | None = Field(
        None, gt=0, title="Worker time (s)", description="Wall clock that attempts hold a GPU worker, anchors included."
    )
    experiments: int | None = Field(None, ge=1, title="Experiments", description="Candidates tried, failed ones too.")


class Campaign(Frozen):
    """Iterations towards one set of targets. Running the same name again resumes it and repeats nothing."""

    name: str = Field(
        "demo", pattern=CAMPAIGN_NAME, title="Campaign", description="Names the records. The same name resumes."
    )
    clips: tuple[str, ...] = Field(
        ("demo",),
        min_length=1,
        title="Clips",
        description="Files the GPU worker can read, in any format ffmpeg reads, s3://bucket/key, or 'demo' for the "
        "built-in clip.",
    )
    select: tuple[str, ...] = Field(
        (),
        title="Clips that decide promotion",
        description="Never shown to a designer. What leads on the clips above must win on these, in a fresh random "
        "crop and stretch beside its rival, to become champion. Empty: the clips above decide.",
    )
    sealed: tuple[str, ...] = Field(
        (),
        title="Sealed clips",
        description="Never shown to a designer and measured once, at the end, for the champion alone.",
    )
    train: tuple[str, ...] = Field(
        (),
        title="Training clips",
        description="What a candidate's trainer.py gets; its weights then need not be in the bitstream. None of the "
        "clips above.",
    )
    iterations: int = Field(
        2, ge=1, le=1000, title="Iterations", description="Turns of design → dispatch → wait → analyze; 1 to 1000."
    )
    candidates: int = Field(
        3,
        ge=1,
        le=8,
        title="Candidates per iteration",
        description="How many travel to the GPU pool in one batch; 1 to 8.",
    )
    designer: Literal["search", "anthropic", "openai"] = Field(
        "search",
        title="Designer",
        description="What proposes candidates: 'search' (Optuna) needs no key, 'anthropic' needs ANTHROPIC_API_KEY, "
        "'openai' OPENAI_API_KEY.",
    )
    model: str = Field(
        "",
        max_length=200,
        title="Model",
        description="The language model of the anthropic or openai designer; empty: the designer's own choice.",
    )
    store: str = Field(
        "./.evocodec/store", title="Store", description="Where records go: a folder or s3://bucket/prefix."
    )
    qualities: tuple[Quality, ...] = Field(
        (0.2, 0.4, 0.6, 0.8),
        min_length=1,
        max_length=16,
        title="Rate points",
        description="Values of the quality knob to measure, 0 to 1; BD-rate needs at least four of them.",
    )
    max_frames: int = Field(
        128,
        ge=1,
        le=3600,
        title="Frames per clip",
        description="Only this many frames of each clip are used, from its start; 1 to 3600.",
    )
    hours: float | None = Field(
        None, gt=0, title="Hours", description="Begin no further iteration after so long; empty: no limit."
    )
    early_stop_ratio: float = Field(
        8,
        gt=1,
        title="Early stop",
        description="Give a candidate up when a short stretch takes this many times the bits of x265 medium.",
    )
    seed: int = Field(0, ge=0, title="Seed", description="Makes the search designer repeatable.")
    stop_when_met: bool = Field(
        True,
        title="Stop when targets hold",
        description="End early once one candidate meets every target on every clip.",
    )
    experiment_timeout_seconds: float = Field(
        3600,
        gt=0,
        title="Batch timeout (s)",
        description="A batch that works for longer than this is cancelled; its time in the queue does not count.",
    )
    queue_timeout_seconds: float = Field(
        14400,  # other campaigns' batches may come first, and spot capacity comes back in hours
        gt=0,
        title="Queue timeout (s)",
        description="The campaign stops where the GPU pool begins nothing for so long; running it again resumes it.",
    )
    budget: Budget = Field(
        default_factory=Budget, title="Budget", description="Hard caps: no iteration begins that would pass one."
    )
    model_price: ModelPrice | None = Field(
        None, title="Price of the model", description="Empty: by the price list; needed for a model that is not on it."
    )
    targets: Targets = Field(default_factory=Targets, title="Targets")
    limits: Limits = Field(default_factory=Limits, title="Limits of a candidate's processes")

    @field_validator("clips", "select", "sealed", "train", "qualities")
    @classmethod
    def _different(cls, values: tuple[str | float, ...]) -> tuple[str | float, ...]:
        """The same twice would be measured twice and break every curve."""
        for value in values:
            if values.count(value) > 1:
                raise ValueError(f"{value} is given twice")
        return values

    @model_validator(mode="after")
    def _splits_apart(self) -> Campaign:
        """A clip in two splits would be shown to whom it must not be shown."""
        named: dict[str, str] = {}
        for split in ("clips", "select", "sealed", "train"):
            for clip in getattr(self, split):
                if clip in named:
                    raise ValueError(f"{clip} is in both {named[clip]} and {split}")
                named[clip] = split
        return self


class CandidateRef(Frozen):
    """A candidate on its way to a worker: the id of the experiment it becomes, and where it lies in the store."""

    experiment_id: str = Field(title="Experiment id")
    candidate_hash: str = Field(pattern=r"^[0-9a-f]{64}$", title="Candidate", description="SHA-256 of its folder.")
    iteration: int = Field(0, ge=0, title="Iteration")
    attempt: int = Field(1, ge=1, title="Attempt", description="Above 1 after a failure of the infrastructure.")
    lost: int = Field(0, ge=0, title="Lost", description="Earlier attempts that failed so; interruptions left out.")


class Batch(Frozen):
    """What one dispatched `experiment` or `verify` run works on."""

    campaign: Campaign = Field(title="Campaign")
    candidates: tuple[CandidateRef, ...] = Field((), max_length=8, title="Candidates")
    sealed: bool = Field(False, title="Sealed", description="Measure them on the sealed clips and nothing else.")
