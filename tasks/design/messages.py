"""Asking a model over Anthropic's Messages API: one request, one raw answer, with patience for what may pass.

Owns streaming, time limits and retries. The client's own retries are off: it would wait as long as any Retry-After
says, and it gives up on a stream that breaks in the middle, which was paid for and is an answer to be kept.
What is asked is `tasks.design.prompt`'s; what an answer is worth is `tasks.design.answers`'.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from codec.errors import BadInputError, EvocodecError
from tasks.design.answers import Answer, Block, Usage

if TYPE_CHECKING:
    import anthropic

LOG: Final = logging.getLogger("evocodec.design")
# What passes by itself: too many requests, a time limit or a conflict there, and any error of the server's own.
PASSING: Final = (408, 409, 429)
SERVER_ERRORS: Final = 500


@dataclass(frozen=True)
class Patience:
    """How long a model is waited for. Seconds."""

    tries: int = 6
    first_wait: float = 1.0
    longest_wait: float = 60.0
    silence: float = 120.0
    answer: float = 1200.0


class MessagesApi:
    """One model behind one key."""

    def __init__(self, api_key: str, base_url: str = "", patience: Patience | None = None) -> None:
        import anthropic

        self._key = api_key
        self._patience = patience or Patience()
        self._client = anthropic.Anthropic(
            api_key=api_key,
            base_url=base_url or None,
            max_retries=0,
            timeout=anthropic.Timeout(self._patience.silence, connect=min(10.0, self._patience.silence)),
        )
        self._force_tool = True

    def ask(self, body: Mapping[str, Any]) -> Answer:
        """The answer to `body`, the parameters of one request; incomplete, and saying so, where it was cut off.

        Raises EvocodecError where nothing came after all tries, BadInputError where the request or key is refused.
        """
        import anthropic

        failure: anthropic.APIError
        for number in range(1, self._patience.tries + 1):
            try:
                return self._stream(body if self._force_tool else _with_free_choice(body))
            except anthropic.APIStatusError as error:
                if self._may_leave_choice(error):
                    LOG.warning("%s does not let a tool be forced: it is asked to use it", body["model"])
                    self._force_tool = False
                    continue
                if error.status_code not in PASSING and error.status_code < SERVER_ERRORS:
                    raise BadInputError(f"the model {body['model']} cannot be asked: {self._told(error)}") from None
                failure, wait = error, _retry_after(error)
            except anthropic.APIConnectionError as error:
                failure, wait = error, None
            if number < self._patience.tries:
                self._sleep(number, wait, self._told(failure))
        raise EvocodecError(
            f"no answer from {body['model']} in {self._patience.tries} tries ({self._told(failure)}): "
            "run the campaign again later; what was answered before is kept"
        ) from None

    def _stream(self, body: Mapping[str, Any]) -> Answer:
        """Raises anthropic.APIError only where nothing that was paid for has come."""
        import anthropic
        import httpx2

        started = time.monotonic()
        coming = _Coming(model=str(body["model"]))
        error = ""
        try:
            with self._client.messages.create(**body, stream=True) as stream:
                coming.request_id = stream.response.headers.get("request-id", "")
                for event in stream:
                    coming.take(event)
                    if time.monotonic() - started > self._patience.answer:
                        error = f"it took longer than {self._patience.answer:g} s"
                        break
        except (anthropic.APIError, httpx2.HTTPError) as failure:
            if not coming.began:
                if isinstance(failure, httpx2.HTTPError):
                    raise anthropic.APIConnectionError(request=_request_of(failure)) from failure
                raise
            error = self._told(failure)
        if not error and not coming.ended:
            error = "the stream ended before the answer did"
        return coming.answer(time.monotonic() - started, error)

    def _may_leave_choice(self, error: anthropic.APIStatusError) -> bool:
        """Models that always think refuse a forced tool; some say so of the tool, some of the thinking."""
        return self._force_tool and error.status_code == 400 and "tool_choice" in str(error)

    def _sleep(self, number: int, wait: float | None, reason: str) -> None:
        backoff = self._patience.first_wait * 2 ** (number - 1) * random.uniform(0.75, 1.25)
        seconds = min(self._patience.longest_wait, backoff if wait is None else max(wait, 0.0))
        LOG.warning("asking again in %.1f s: %s", seconds, reason)
        time.sleep(seconds)

    def _told(self, error: Exception) -> str:
        """One line, without the key, which a server might repeat."""
        return " ".join(str(error).split()).replace(self._key, "…")[:500] or type(error).__name__


@dataclass
class _Coming:
    """An answer as its events come in."""

    model: str
    request_id: str = ""
    began: bool = False
    ended: bool = False
    stop_reason: str = ""
    usage: dict[str, int] = field(default_factory=dict)
    blocks: dict[int, Block] = field(default_factory=dict)

    def take(self, event: Any) -> None:
        handlers: dict[str, Callable[[Any], None]] = {
            "message_start": self._start,
            "content_block_start": self._open,
            "content_block_delta": self._add,
            "message_delta": self._delta,
        }
        if event.type in handlers:
            handlers[event.type](event)
        elif event.type == "message_stop":
            self.ended = True

    def answer(self, seconds: float, error: str) -> Answer:
        return Answer(
            model=self.model,
            request_id=self.request_id,
            stop_reason=self.stop_reason,
            usage=Usage.model_validate(self.usage),
            blocks=tuple(self.blocks[index] for index in sorted(self.blocks)),
            seconds=seconds,
            error=error,
        )

    def _start(self, event: Any) -> None:
        self.began = True
        self._count(event.message.usage)

    def _open(self, event: Any) -> None:
        block = event.content_block
        self.blocks[event.index] = Block(
            type=block.type, name=getattr(block, "name", ""), text=getattr(block, "text", "")
        )

    def _add(self, event: Any) -> None:
        pieces = (getattr(event.delta, name, "") for name in ("text", "partial_json", "thinking"))
        block = self.blocks[event.index]
        self.blocks[event.index] = block.model_copy(update={"text": block.text + "".join(filter(None, pieces))})

    def _delta(self, event: Any) -> None:
        self.stop_reason = event.delta.stop_reason or self.stop_reason
        self._count(event.usage)

    def _count(self, usage: Any) -> None:
        """Counts are totals so far, each said again by the last event or left out of it."""
        for name in Usage.model_fields:
            value = getattr(usage, name, None)
            if value is not None:
                self.usage[name] = value


def _with_free_choice(body: Mapping[str, Any]) -> dict[str, Any]:
    return {**body, "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}


def _retry_after(error: anthropic.APIStatusError) -> float | None:
    try:
        return float(error.response.headers.get("retry-after", ""))
    except ValueError:
        return None


def _request_of(error: Any) -> Any:
    import httpx2

    try:
        return error.request
    except RuntimeError:  # httpx knows no request for some errors of the connection
        return httpx2.Request("POST", "/v1/messages")
