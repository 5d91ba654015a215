"""A stand-in for Anthropic's Messages API on loopback, scripted per test: each request gets the next reply of a list.

It speaks HTTP, JSON and server-sent events as the real one does, so the real client talks to it through
ANTHROPIC_BASE_URL. A script is a list of replies, in the order in which they are given:

    with MessagesServer([limited(0.01), good(submission()), refusal()]) as server:
        ...
    assert [request["model"] for request in server.requests] == [...]

Once the script is at its end every request gets error 400, which no client repeats.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

# What the stand-in bills for every answer, in tokens.
USAGE = {
    "input_tokens": 700,
    "cache_creation_input_tokens": 4000,
    "cache_read_input_tokens": 9000,
    "output_tokens": 1500,
}
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


def good(content: dict[str, Any]) -> Reply:
    """The tool used once with this input."""
    return Reply(blocks=(tool_use(json.dumps(content)),))


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


def denied(key: str) -> Reply:
    """The key refused, and repeated in the message, as a careless proxy might."""
    return Reply(401, error=("authentication_error", f"invalid x-api-key {key}"))


def no_forced_tool() -> Reply:
    """What models that always think say to a forced tool."""
    text = 'tool_choice: type "tool" and "any" are not supported for this model.'
    return Reply(400, error=("invalid_request_error", text))


def tool_use(text: str) -> dict[str, str]:
    return {"type": "tool_use", "name": "submit_candidate", "text": text}


class MessagesServer:
    """`with MessagesServer(script) as server:` listens at `server.url`. `requests` are the bodies that came."""

    def __init__(self, script: Sequence[Reply]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self._script = list(script)
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                reply = server._next(body, _key_of(self))
                try:
                    _answer(self, reply, body, f"req_{len(server.requests):04d}")
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

    def __enter__(self) -> MessagesServer:
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
            return self._script.pop(0)


def _key_of(handler: BaseHTTPRequestHandler) -> str:
    """Old clients send a header of their own."""
    bearer: str = handler.headers.get("authorization", "").removeprefix("Bearer ")
    return bearer or handler.headers.get("x-api-key", "")


def _answer(handler: BaseHTTPRequestHandler, reply: Reply, body: dict[str, Any], request_id: str) -> None:
    if reply.status != 200:
        kind, message = reply.error
        content = {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
        _send_json(handler, reply.status, content, request_id, reply.headers)
    elif body.get("stream"):
        _send_events(handler, reply, body["model"], request_id)
    else:
        content = _message(body["model"], request_id) | {
            "content": [_whole(block, index) for index, block in enumerate(reply.blocks)],
            "stop_reason": reply.stop_reason,
            "usage": USAGE,
        }
        _send_json(handler, 200, content, request_id, reply.headers)


def _send_json(
    handler: BaseHTTPRequestHandler, status: int, content: object, request_id: str, headers: dict[str, str]
) -> None:
    data = json.dumps(content).encode()
    handler.send_response(status)
    for name, value in ({"content-type": "application/json", "request-id": request_id} | headers).items():
        handler.send_header(name, value)
    handler.send_header("content-length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def _send_events(handler: BaseHTTPRequestHandler, reply: Reply, model: str, request_id: str) -> None:
    handler.send_response(200)
    handler.send_header("content-type", "text/event-stream")
    handler.send_header("request-id", request_id)
    handler.send_header("transfer-encoding", "chunked")
    handler.end_headers()
    for number, event in enumerate(_events(reply, model, request_id)):
        if number == reply.cut_after:
            handler.close_connection = True
            return  # without the last chunk: a connection that broke
        time.sleep(reply.pause)
        data = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
        handler.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        handler.wfile.flush()
    handler.wfile.write(b"0\r\n\r\n")


def _events(reply: Reply, model: str, request_id: str) -> list[dict[str, Any]]:
    start = _message(model, request_id) | {"content": [], "stop_reason": None, "usage": USAGE | {"output_tokens": 1}}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": start}, {"type": "ping"}]
    for index, block in enumerate(reply.blocks):
        empty = _whole(block | {"text": ""}, index)
        events.append({"type": "content_block_start", "index": index, "content_block": empty})
        text = block["text"]
        for begin in range(0, len(text), PIECE):
            piece = text[begin : begin + PIECE]
            delta = (
                {"type": "input_json_delta", "partial_json": piece}
                if block["type"] == "tool_use"
                else {"type": "text_delta", "text": piece}
            )
            events.append({"type": "content_block_delta", "index": index, "delta": delta})
        events.append({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": reply.stop_reason, "stop_sequence": None}
    events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": USAGE["output_tokens"]}})
    events.append({"type": "message_stop"})
    return events


def _message(model: str, request_id: str) -> dict[str, Any]:
    return {"id": f"msg_{request_id}", "type": "message", "role": "assistant", "model": model, "stop_sequence": None}


def _whole(block: dict[str, str], index: int) -> dict[str, Any]:
    if block["type"] == "tool_use":
        content = json.loads(block["text"]) if block["text"] else {}
        return {"type": "tool_use", "id": f"toolu_{index}", "name": block["name"], "input": content}
    return {"type": "text", "text": block["text"]}
