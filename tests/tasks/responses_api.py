"""A stand-in for OpenAI's Responses API: see `scripted_model`, whose replies it gives in that API's words."""

from __future__ import annotations

from typing import Any

from scripted_model import Reply, ScriptedServer, pieces

# What the stand-in bills for every answer: the input tokens are all of them, those of the cache included.
USAGE = {
    "input_tokens": 13_700,
    "input_tokens_details": {"cached_tokens": 9000, "cache_write_tokens": 4000},
    "output_tokens": 1500,
    "output_tokens_details": {"reasoning_tokens": 1000},
    "total_tokens": 15_200,
}


class ResponsesServer(ScriptedServer):
    path = "/v1/responses"
    request_id_header = "x-request-id"

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def error(self, reply: Reply, request_id: str) -> dict[str, Any]:
        kind, message = reply.error
        return {"error": {"type": kind, "message": message, "code": kind, "param": None}}

    def whole(self, reply: Reply, model: str, request_id: str) -> dict[str, Any]:
        cut_short = {"max_tokens": "max_output_tokens"}.get(reply.stop_reason)
        return _response(model, request_id) | {
            "status": "incomplete" if cut_short else "completed",
            "incomplete_details": {"reason": cut_short} if cut_short else None,
            "output": [_item(reply, index) for index in range(len(reply.blocks))],
            "usage": USAGE,
        }

    def events(self, reply: Reply, model: str, request_id: str) -> list[dict[str, Any]]:
        begun = _response(model, request_id)
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": begun},
            {"type": "response.in_progress", "response": begun},
        ]
        if reply.error[0]:
            kind, message = reply.error
            failed = begun | {"status": "failed", "error": {"code": kind, "message": message}}
            events.append({"type": "response.failed", "response": failed})
        else:
            for index in range(len(reply.blocks)):
                events += _item_events(reply, index)
            end = self.whole(reply, model, request_id)
            events.append({"type": f"response.{end['status']}", "response": end})
        return [event | {"sequence_number": number} for number, event in enumerate(events)]


def _response(model: str, request_id: str) -> dict[str, Any]:
    return {
        "id": f"resp_{request_id}",
        "object": "response",
        "created_at": 1_790_000_000,
        "model": model,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "output": [],
        "usage": None,
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
    }


def _item(reply: Reply, index: int) -> dict[str, Any]:
    block = reply.blocks[index]
    if block["type"] == "tool_use":
        call = {"type": "function_call", "id": f"fc_{index}", "call_id": f"call_{index}", "name": block["name"]}
        return call | {"arguments": block["text"], "status": "completed"}
    return {
        "type": "message",
        "id": f"msg_{index}",
        "role": "assistant",
        "status": "completed",
        "content": [_part(reply, block["text"])],
    }


def _part(reply: Reply, text: str) -> dict[str, Any]:
    if reply.stop_reason == "refusal":
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "text": text, "annotations": []}


def _item_events(reply: Reply, index: int) -> list[dict[str, Any]]:
    item, text = _item(reply, index), reply.blocks[index]["text"]
    where = {"output_index": index, "item_id": item["id"]}
    if item["type"] == "function_call":
        events = [{"type": "response.output_item.added", **where, "item": item | {"arguments": ""}}]
        kind = "response.function_call_arguments"
        events += [{"type": f"{kind}.delta", **where, "delta": piece} for piece in pieces(text)]
        events.append({"type": f"{kind}.done", **where, "arguments": text})
    else:
        where |= {"content_index": 0}
        refused = reply.stop_reason == "refusal"
        kind = "response.refusal" if refused else "response.output_text"
        events = [{"type": "response.output_item.added", **where, "item": item | {"content": []}}]
        events.append({"type": "response.content_part.added", **where, "part": _part(reply, "")})
        events += [{"type": f"{kind}.delta", **where, "delta": piece} for piece in pieces(text)]
        events.append({"type": f"{kind}.done", **where, "refusal" if refused else "text": text})
        events.append({"type": "response.content_part.done", **where, "part": _part(reply, text)})
    return [*events, {"type": "response.output_item.done", **where, "item": item}]
