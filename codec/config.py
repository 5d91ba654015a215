"""What the codec is told: one frozen, checked value that a user, a flow or a designer fills in.

Owns names, bounds and defaults. What a preset or an option means is each strategy's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from codec import strategies
from codec.bitstream import MAX_SCENE_FRAMES
from codec.effort import MAX_EFFORT
from codec.errors import BadInputError
from codec.strategies.protocol import EncodeSettings

AUTO = "auto"
CHOSEN_BY_AUTO = ("preset", "scale", "quality_range", "options")


class CodecConfig(BaseModel):
    """How a clip is coded. `CodecConfig.parse` is the way in for values that a person or a model wrote."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    quality: float = Field(0.5, ge=0, le=1, description="The rate knob: higher is better and bigger.")
    strategy: str = Field(
        "av1",
        description=f"What codes every scene: {', '.join(strategies.STRATEGIES)}, or auto: for each scene what does "
        "least harm for its bits, found by encoding it.",
    )
    effort: int = Field(
        4,
        ge=0,
        le=MAX_EFFORT,
        description="How much auto tries: 0 one quick encode a scene, 10 everything. Nothing to other strategies.",
    )
    preset: str | None = Field(
        None,
        description="The encoder's own name of a speed; slower is smaller. None is the strategy's default.",
    )
    scale: Literal["1", "3/4", "2/3", "1/2"] = Field(
        "1", description="Coded size over source size: below 1 saves bits at low quality and costs detail."
    )
    quality_range: tuple[float, float] | None = Field(
        None,
        description="The encoder's CRF or QP at quality 0 and at quality 1. None is the strategy's default.",
    )
    scene_cuts: bool = Field(
        True, description="Start a scene, with its own key frame, at every cut. False splits by length only."
    )
    max_scene_frames: int = Field(
        250,
        ge=1,
        le=MAX_SCENE_FRAMES,
        description="Longer scenes are split: bounds memory and the cost of a seek. Scenes of more than 2^30 luma "
        "samples (129 frames of 4K) are split in any case.",
    )
    options: dict[str, str] = Field(
        default_factory=dict, description="Further encoder parameters by the encoder's own names; they win."
    )

    @field_validator("strategy")
    @classmethod
    def _known_strategy(cls, name: str) -> str:
        if name != AUTO and name not in strategies.STRATEGIES:
            raise ValueError(f"unknown strategy {name!r}: choose one of {', '.join(strategies.STRATEGIES)}, or {AUTO}")
        return name

    @model_validator(mode="after")
    def _known_preset(self) -> CodecConfig:
        if self.strategy == AUTO:
            chosen = [
                name
                for name in CHOSEN_BY_AUTO
                if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True)
            ]
            if chosen:
                raise ValueError(f"auto chooses {', '.join(chosen)} itself: leave it out, or name a strategy")
        elif self.preset is not None:
            known = strategies.get(self.strategy).presets
            if self.preset not in known:
                raise ValueError(f"{self.strategy} has no preset {self.preset!r}: choose one of {', '.join(known)}")
        return self

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> CodecConfig:
        """The config that `values` spell. Raises BadInputError with one line that names the first field at fault."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            reason = first["msg"].removeprefix("Value error, ")
            if first["type"] in ("greater_than_equal", "less_than_equal"):
                least, most = cls.model_fields[field].metadata
                reason = f"{first['input']} is not in the range {least.ge} to {most.le}"
            if first["type"] == "extra_forbidden":
                reason = f"no such setting; the settings are {', '.join(cls.model_fields)}"
            raise BadInputError(f"codec config: {field + ': ' if field else ''}{reason}") from error

    @property
    def settings(self) -> EncodeSettings:
        """What of this one strategy is told for one scene."""
        return EncodeSettings(self.quality, self.preset, self.scale, self.quality_range, self.options)
