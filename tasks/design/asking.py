"""Asking a language model: one request, one raw answer, with patience for what may pass. The same for every vendor.

Owns streaming, time limits and retries. The clients' own retries are off: they would wait as long as any Retry-After
says, and they give up on a stream that breaks in the middle, which was paid for and is an answer to be kept.
What a vendor's requests and events look like is its wire's: `tasks.design.messages` (Anthropic) and
`tasks.design.responses` (OpenAI). What is asked is `tasks.design.prompt`'s; what an answer is worth is
`tasks.design.answers`'.
"""

from __future__ import annotations

import json
import logging
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from codec.errors import BadInputError, EvocodecError
from tasks.design.answers import Answer, Block
from tasks.design.prices import Usage
from tasks.design.prompt import Prompt

LOG: Final = logging.getLogger("evocodec.design")
# What passes by itself: too many requests, a time limit or a conflict there, and any error of the server's own.
PASSING: Final = (408, 409, 429)
SERVER_ERRORS: Final = 500
# Where a break kept the vendor's count from us. English and code have about four characters a token.
CHARACTERS_PER_TOKEN: Final = 4

Body = Mapping[str, Any]


@dataclass(frozen=True)
class Patience:
    """How long a model is waited for. Seconds."""

    tries: int = 6
    first_wait: float = 1.0
    longest_wait: float = 60.0
    silence: float = 120.0
    answer: float = 1200.0


@dataclass
class Coming:
    """An answer as its events come in. `ended` is said by the vendor's last event, `failed` is what it says instead."""

    model: str
    request_id: str = ""
    began: bool = False
    ended: bool = False
    failed: str = ""
    stop_reason: str = ""
    usage: dict[str, int] = field(default_factory=dict)
    blocks: dict[tuple[int, int], Block] = field(default_factory=dict)

    def open(self, place: tuple[int, int], kind: str, name: str = "", text: str = "") -> None:
        self.blocks[place] = Block(type=kind, name=name, text=text)

    def add(self, place: tuple[int, int], text: str) -> None:
        block = self.blocks[place]
        self.blocks[place] = block.model_copy(update={"text": block.text + text})

    def count(self, **tokens: int | None) -> None:
        """Counts are totals so far, each said again by a later event or left out of it."""
        self.usage |= {name: value for name, value in tokens.items() if value is not None}

    def answer(self, body: Body, seconds: float, error: str) -> Answer:
        blocks = tuple(self.blocks[place] for place in sorted(self.blocks))
        usage = Usage.model_validate(self.usage)
        if error:
            usage = _at_least(usage, len(json.dumps(body)), sum(len(block.text) for block in blocks))
        return Answer(
            model=self.model,
            request_id=self.request_id,
            stop_reason=self.stop_reason,
            usage=usage,
            blocks=blocks,
            seconds=seconds,
            error=error,
        )


class Wire(Protocol):
    """One vendor's API behind one key.

    sdk          the module of its client, for the names of its errors
    concessions  by a word in the vendor's error 400: the same request without what that word names
    """

    sdk: Any
    concessions: Mapping[str, Callable[[Body], Body]]

    def open(self, body: Body) -> Any:
        """The stream of events that answers: a context manager with `response`, the HTTP response, and an iterator."""
        ...

    def take(self, event: Any, coming: Coming) -> None: ...

    def is_final(self, error: Any) -> bool:
        """Whether a failure that looks as if it would pass will not."""
        ...


@dataclass(frozen=True)
class Vendor:
    """Who sells a model: names of its settings in the environment, and how one talks to it."""

    name: str
    key: str
    base_url: str
    default_model: str
    body: Callable[[Prompt], dict[str, Any]]
    wire: Callable[[str, str, Patience], Wire]


class ModelApi:
    """Whoever answers behind a wire. `key` is known here only to be kept out of what is said."""

    def __init__(self, wire: Wire, key: str, patience: Patience) -> None:
        self._wire = wire
        self._key = key
        self._patience = patience
        self._conceded: set[str] = set()

    def ask(self, body: Body) -> Answer:
        """The answer to `body`, the parameters of one request; incomplete, and saying so, where it was cut off.

        Raises EvocodecError where nothing came after all tries, BadInputError where the request or key is refused.
        """
        sdk = self._wire.sdk
        number = 1
        while True:
            try:
                return self._stream(self._without(body))
            except sdk.APIStatusError as error:
                if self._may_concede(error, body):
                    continue
                if _refuses(error.status_code) or self._wire.is_final(error):
                    raise BadInputError(f"the model {body['model']} cannot be asked: {self._told(error)}") from None
                reason, wait = self._told(error), _retry_after(error)
            except (sdk.APIError, _BrokenBeforeItBegan) as error:
                reason, wait = self._told(error), None
            if number == self._patience.tries:
                raise EvocodecError(
                    f"no answer from {body['model']} in {number} tries ({reason}): "
                    "run the campaign again later; what was answered before is kept"
                ) from None
            self._sleep(number, wait, reason)
            number += 1

    def _stream(self, body: Body) -> Answer:
        """Raises the client's APIError or _BrokenBeforeItBegan only where nothing that was paid for has come."""
        import httpx2

        started = time.monotonic()
        coming = Coming(model=str(body["model"]))
        error = ""
        try:
            with self._wire.open(body) as stream:
                headers = stream.response.headers
                coming.request_id = headers.get("request-id") or headers.get("x-request-id", "")
                for event in stream:
                    self._wire.take(event, coming)
                    if time.monotonic() - started > self._patience.answer:
                        error = f"it took longer than {self._patience.answer:g} s"
                        break
        except (self._wire.sdk.APIError, httpx2.HTTPError) as failure:
            if not coming.began:
                if isinstance(failure, httpx2.HTTPError):
                    raise _BrokenBeforeItBegan(str(failure) or type(failure).__name__) from failure
                raise
            error = self._told(failure)
        if coming.failed and not error:
            error = self._told(coming.failed)
        if not coming.began:
            raise _BrokenBeforeItBegan(error or "the stream ended before it began")
        if not error and not coming.ended:
            error = "the stream ended before the answer did"
        return coming.answer(body, time.monotonic() - started, error)

    def _without(self, body: Body) -> Body:
        for word in sorted(self._conceded):
            body = self._wire.concessions[word](body)
        return body

    def _may_concede(self, error: Any, body: Body) -> bool:
        """Some models refuse what others need, such as a forced tool; they are asked again without it, once."""
        words = self._wire.concessions.keys() - self._conceded if error.status_code == 400 else set()
        refused = [word for word in sorted(words) if word in str(error)]
        for word in refused:
            LOG.warning("%s does not take %s: it is asked without", body["model"], word)
        self._conceded.update(refused)
        return bool(refused)

    def _sleep(self, number: int, wait: float | None, reason: str) -> None:
        backoff = self._patience.first_wait * 2 ** (number - 1) * random.uniform(0.75, 1.25)
        seconds = min(self._patience.longest_wait, backoff if wait is None else max(wait, 0.0))
        LOG.warning("asking again in %.1f s: %s", seconds, reason)
        time.sleep(seconds)

    def _told(self, error: object) -> str:
        """One line, without the key, which a server might repeat."""
        return " ".join(str(error).split()).replace(self._key, "…")[:500] or type(error).__name__


class _BrokenBeforeItBegan(Exception):  # noqa: N818 - on its way to the next try, seen by nobody else
    pass


def _refuses(status: int) -> bool:
    """200 is the status of a stream that went on to say that the server cannot."""
    return 400 <= status < SERVER_ERRORS and status not in PASSING


def _at_least(usage: Usage, sent: int, came: int) -> Usage:
    """With an estimate where the vendor had not said yet what it charges: a break must not make an answer free."""
    asked = 0 if usage.prompt_tokens else math.ceil(sent / CHARACTERS_PER_TOKEN)
    written = max(usage.output_tokens, math.ceil(came / CHARACTERS_PER_TOKEN))
    return usage.model_copy(update={"input_tokens": usage.input_tokens + asked, "output_tokens": written})


def _retry_after(error: Any) -> float | None:
    try:
        return float(error.response.headers.get("retry-after", ""))
    except ValueError:
        return None
