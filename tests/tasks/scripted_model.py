"""A stand-in for a vendor's API of language models, on loopback, scripted per test: what all vendors have in common.

It speaks HTTP, JSON and server-sent events as the real one does, so the real client talks to it through its base URL:
`messages_api` is Anthropic's, `responses_api` is OpenAI's. A script is a list of replies, in the order in which they
are given:

    with MessagesServer([limited(0.01), good(submission()), refusal()]) as server:
        ...
    assert [request["model"] for request in server.requests] == [...]

A reply may also be made of the request, by a function of its body. Once the script is at its end every request gets
error 400, which no client repeats.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

# The input of a tool comes in pieces of so many characters.
PIECE = 40


@dataclass(frozen=True)
class Reply:
    """What one request gets. `cut_after` ends the connection after so many events, `pause` waits before each one."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    blocks: tuple[dict[str, str], ...] = ()
    stop_reason: str = "tool_use"
    error: tuple[str, str] = ("", "")
    cut_after: int | None = None
    pause: float = 0.0


def good(content: dict[str, Any], tool: str = "submit_candidate") -> Reply:
    """The tool used once with this input."""
    return Reply(blocks=(tool_use(json.dumps(content), tool),))


def malformed() -> Reply:
    """The tool used with an input that is not JSON."""
    return Reply(blocks=(tool_use('{"hypothesis": "half a'),))


def talk(text: str = "Here is an idea instead of a codec.") -> Reply:
    """No tool used."""
    return Reply(blocks=({"type": "text", "text": text},), stop_reason="end_turn")


def refusal() -> Reply:
    return Reply(blocks=({"type": "text", "text": "I will not do that."},), stop_reason="refusal")


def too_long(content: dict[str, Any]) -> Reply:
    """Stopped at max_tokens in the middle of the tool's input."""
    text = json.dumps(content)
    return Reply(blocks=(tool_use(text[: len(text) // 2]),), stop_reason="max_tokens")


def cut(content: dict[str, Any], after: int = 4) -> Reply:
    """The connection breaks in the middle of the stream."""
    return Reply(blocks=(tool_use(json.dumps(content)),), cut_after=after)


def slow(content: dict[str, Any], pause: float) -> Reply:
    """So many seconds before each event."""
    return Reply(blocks=(tool_use(json.dumps(content)),), pause=pause)


def limited(retry_after: float) -> Reply:
    return Reply(429, {"retry-after": str(retry_after)}, error=("rate_limit_error", "too many requests"))


def broken() -> Reply:
    return Reply(500, error=("api_error", "internal server error"))


def overloaded() -> Reply:
    return Reply(529, error=("overloaded_error", "overloaded"))


def no_money() -> Reply:
    """An account without money, in OpenAI's words."""
    return Reply(429, error=("insufficient_quota", "you exceeded your current quota"))


def denied(key: str) -> Reply:
    """The key refused, and repeated in the message, as a careless proxy might."""
    return Reply(401, error=("authentication_error", f"invalid x-api-key {key}"))


def no_forced_tool() -> Reply:
    """What models that always think say to a forced tool."""
    text = "tool_choice: a forced tool is not supported for this model."
    return Reply(400, error=("invalid_request_error", text))


def no_breakpoints() -> Reply:
    """What a server says that knows nothing of explicit cache breakpoints."""
    return Reply(400, error=("invalid_request_error", "Unknown parameter: 'prompt_cache_options'."))


def fails_inside() -> Reply:
    """A stream that begins and then says that the server is overloaded."""
    return Reply(error=("overloaded_error", "overloaded"))


def tool_use(text: str, name: str = "submit_candidate") -> dict[str, str]:
    return {"type": "tool_use", "name": name, "text": text}


class ScriptedServer:
    """`with …Server(script) as server:` listens at `server.url`. `requests` are the bodies that came.

    The base of one class for each API, which says what an answer looks like there.
    """

    path = ""
    request_id_header = "request-id"

    def __init__(self, script: Sequence[Reply | Callable[[dict[str, Any]], Reply]]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self._script = list(script)
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle(self) -> None:
                with suppress(ConnectionResetError):  # a client that was killed
                    super().handle()

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                assert self.path.partition("?")[0] == server.path, self.path
                reply = server._next(body, _key_of(self))
                try:
                    server._answer(self, reply, body, f"req_{len(server.requests):04d}")
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True  # the client had no more patience

            def log_message(self, *arguments: object) -> None:
                return

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def unused(self) -> int:
        return len(self._script)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _next(self, body: dict[str, Any], key: str) -> Reply:
        with self._lock:
            self.requests.append(body)
            self.keys.append(key)
            if not self._script:
                return Reply(400, error=("invalid_request_error", "the script has come to its end"))
            reply = self._script.pop(0)
        return reply if isinstance(reply, Reply) else reply(body)

    def error(self, reply: Reply, request_id: str) -> dict[str, Any]:
        """The body of an answer whose status is not 200."""
        raise NotImplementedError

    def whole(self, reply: Reply, model: str, request_id: str) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        raise NotImplementedError

    def events(self, reply: Reply, model: str, request_id: str) -> list[dict[str, Any]]:
        """The same as the events of a stream."""
        raise NotImplementedError

    def _answer(self, handler: BaseHTTPRequestHandler, reply: Reply, body: dict[str, Any], request_id: str) -> None:
        headers = {self.request_id_header: request_id} | reply.headers
        if reply.status != 200:
            _send_json(handler, reply.status, self.error(reply, request_id), headers)
        elif body.get("stream"):
            _send_events(handler, reply, self.events(reply, body["model"], request_id), headers)
        else:
            _send_json(handler, 200, self.whole(reply, body["model"], request_id), headers)


def pieces(text: str) -> list[str]:
    return [text[begin : begin + PIECE] for begin in range(0, len(text), PIECE)]


def _key_of(handler: BaseHTTPRequestHandler) -> str:
    """Old clients send a header of their own."""
    bearer: str = handler.headers.get("authorization", "").removeprefix("Bearer ")
    return bearer or handler.headers.get("x-api-key", "")


def _send_json(handler: BaseHTTPRequestHandler, status: int, content: object, headers: dict[str, str]) -> None:
    data = json.dumps(content).encode()
    handler.send_response(status)
    for name, value in ({"content-type": "application/json", "content-length": str(len(data))} | headers).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)


def _send_events(
    handler: BaseHTTPRequestHandler, reply: Reply, events: list[dict[str, Any]], headers: dict[str, str]
) -> None:
    handler.send_response(200)
    for name, value in ({"content-type": "text/event-stream", "transfer-encoding": "chunked"} | headers).items():
        handler.send_header(name, value)
    handler.end_headers()
    for number, event in enumerate(events):
        if number == reply.cut_after:
            handler.close_connection = True
            return  # without the last chunk: a connection that broke
        time.sleep(reply.pause)
        data = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
        handler.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        handler.wfile.flush()
    handler.wfile.write(b"0\r\n\r\n")
