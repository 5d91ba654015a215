"""What a language model answered: the raw answer as it is kept, and the submission that is read out of it.

Owns the shape of both and the words of each refusal. Asking is `tasks.design.asking`'s; where answers are kept is
`tasks.store.store`'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.candidate import FUNCTIONS, REQUIRED_FILES, Candidate, Lineage, Paid
from tasks.design.edits import MAX_EDITS, Astray, Edit, apply_edits
from tasks.design.prices import Usage

TOOL: Final = "submit_candidate"


# How the vendors say that an answer is not all that the model had to say, or that it would say nothing.
REFUSED: Final = ("refusal", "content_filter")
CUT_OFF: Final = ("max_tokens", "max_output_tokens", "model_context_window_exceeded")


@dataclass(frozen=True)
class Tool:
    """What a model may use to answer. `schema` is JSON Schema."""

    name: str
    description: str
    schema: dict[str, Any]


class Block(BaseModel):
    """One block of an answer. `text` of a tool's use is its input, as the characters that came."""

    model_config = ConfigDict(frozen=True)

    type: str
    text: str = ""
    name: str = ""


class Answer(BaseModel):
    """All that came back for one request, and was paid for. `error` says why where it is not complete."""

    model_config = ConfigDict(frozen=True)

    model: str
    request_id: str = ""
    request_hash: str = Field("", description="SHA-256 of what was sent, which is kept beside the candidates.")
    stop_reason: str = ""
    usage: Usage = Field(default_factory=Usage)
    blocks: tuple[Block, ...] = ()
    seconds: float = 0.0
    error: str = ""

    @property
    def complete(self) -> bool:
        return not self.error


class Price(Protocol):
    """USD for the tokens of one answer. Raises BadInputError for a model without a price."""

    def __call__(self, model: str, usage: Usage, /) -> float: ...


def paid(answers: Iterable[Answer], price: Price) -> Paid:
    """What all these answers cost together. Raises BadInputError for a model without a price."""
    found = list(answers)
    return Paid(
        model=found[-1].model if found else "",
        input_tokens=sum(answer.usage.prompt_tokens for answer in found),
        output_tokens=sum(answer.usage.output_tokens for answer in found),
        usd=sum(price(answer.model, answer.usage) for answer in found),
    )


class Predicted(BaseModel):
    model_config = ConfigDict(extra="forbid")

    bd_rate_percent: float = Field(
        ge=-100,
        le=1000,
        description="Expected mean BD-rate against x265-medium over the dev clips; negative is better.",
    )
    tera_ops_per_frame: float = Field(
        ge=0, le=1000, description="Expected decoder operations per 1080p frame, in 10^12; 0 without a network."
    )


class Submission(BaseModel):
    """The input of the one tool that an answer must use."""

    model_config = ConfigDict(extra="forbid")

    hypothesis: str = Field(
        min_length=1, max_length=2000, description="One or two sentences: what is changed, and why it should help."
    )
    change_class: Literal["improve", "repair", "crossover", "draft"]
    parent_id: str | None = Field(description="The experiment this one starts from; null for a fresh draft.")
    predicted: Predicted
    files: dict[str, str | Annotated[list[Edit], Field(max_length=MAX_EDITS)]] = Field(
        description=f"By name: {', '.join(REQUIRED_FILES)}, and optionally "
        f"{', '.join(name for name in FUNCTIONS if name not in REQUIRED_FILES)}. No other names. Each is the whole "
        "source text, or a list of edits of the parent's file of that name; an empty list takes that file as it is."
    )
    config: dict[str, Any] = Field(description="What both functions get as `config`; {} where nothing is to be set.")


SUBMIT: Final = Tool(
    TOOL, "Submit one complete two-agent codec to be measured. Use it exactly once.", Submission.model_json_schema()
)


class Unusable(Exception):  # noqa: N818 - a verdict on an answer, not an error of ours
    """Why an answer cannot be made into a candidate, in words that its writer can act on."""


Content = TypeVar("Content", bound=BaseModel)


def read_submission(answer: Answer) -> Submission:
    """The submission in an answer. Raises Unusable."""
    return read_use(answer, TOOL, Submission)


def read_use(answer: Answer, tool: str, model: type[Content]) -> Content:
    """What `tool` was used with, as `model` says. Raises Unusable."""
    if answer.stop_reason in REFUSED or any(block.type == "refusal" for block in answer.blocks):
        raise Unusable(f"the model refused: {_text_of(answer) or 'it gave no reason'}")
    if answer.stop_reason in CUT_OFF:
        raise Unusable(f"the answer was cut off ({answer.stop_reason}): submit shorter files")
    uses = [block for block in answer.blocks if block.type == "tool_use" and block.name == tool]
    if len(uses) != 1:
        raise Unusable(f"{tool} was used {len(uses)} times: use it exactly once")
    try:
        content = json.loads(uses[0].text or "{}", parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Unusable(f"the input of {tool} is not JSON: {error}") from error
    try:
        return model.model_validate(content)
    except ValidationError as error:
        told = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'input'}: {problem['msg']}" for problem in error.errors()
        )
        raise Unusable(f"the input of {tool} is not valid: {told}") from error


def to_candidate(submission: Submission, experiment_id: str, designer: str, parent: Candidate | None) -> Candidate:
    """The candidate that was submitted; its edits are of `parent`. Raises Unusable where that makes no candidate."""
    files = {name: _whole(name, given, submission.parent_id, parent) for name, given in submission.files.items()}
    try:
        return Candidate(
            files=files,
            config=submission.config,
            lineage=Lineage(
                id=experiment_id,
                parents=(submission.parent_id,) if submission.parent_id else (),
                designer=designer,
                hypothesis=submission.hypothesis,
                change_class=submission.change_class,
                predicted_bd_rate_percent=submission.predicted.bd_rate_percent,
                predicted_tera_ops_per_frame=submission.predicted.tera_ops_per_frame,
            ),
        )
    except ValidationError as error:
        raise Unusable("; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())) from error


def _whole(name: str, given: str | list[Edit], parent_id: str | None, parent: Candidate | None) -> str:
    if isinstance(given, str):
        return given
    if parent_id is None:
        raise Unusable(
            f"{name} comes as edits and parent_id is null: name the parent that they are of, or give it whole"
        )
    if parent is None or name not in parent.files:
        raise Unusable(f"{name} comes as edits and {parent_id} has no such file on record: give it whole")
    try:
        return apply_edits(parent.files[name], given)
    except Astray as error:
        raise Unusable(f"{name} of {parent_id}, {error}") from error


def _text_of(answer: Answer) -> str:
    return " ".join(" ".join(block.text for block in answer.blocks if block.type in ("text", "refusal")).split())[:500]


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
