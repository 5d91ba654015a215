"""A stand-in for Anthropic's Messages API: see `scripted_model`, whose replies it gives in that API's words."""

from __future__ import annotations

import json
from typing import Any

from scripted_model import Reply, ScriptedServer, pieces

# What the stand-in bills for every answer, in tokens.
USAGE = {
    "input_tokens": 700,
    "cache_creation_input_tokens": 4000,
    "cache_read_input_tokens": 9000,
    "output_tokens": 1500,
}


class MessagesServer(ScriptedServer):
    path = "/v1/messages"

    def error(self, reply: Reply, request_id: str) -> dict[str, Any]:
        kind, message = reply.error
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}

    def whole(self, reply: Reply, model: str, request_id: str) -> dict[str, Any]:
        return _message(model, request_id) | {
            "content": [_whole(block, index) for index, block in enumerate(reply.blocks)],
            "stop_reason": reply.stop_reason,
            "usage": USAGE,
        }

    def events(self, reply: Reply, model: str, request_id: str) -> list[dict[str, Any]]:
        if reply.error[0]:
            return [self.error(reply, request_id)]
        start = _message(model, request_id) | {
            "content": [],
            "stop_reason": None,
            "usage": USAGE | {"output_tokens": 1},
        }
        events: list[dict[str, Any]] = [{"type": "message_start", "message": start}, {"type": "ping"}]
        for index, block in enumerate(reply.blocks):
            empty = _whole(block | {"text": ""}, index)
            events.append({"type": "content_block_start", "index": index, "content_block": empty})
            for piece in pieces(block["text"]):
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
