"""Anthropic's Messages API: what a prompt becomes as a request, and what the events of its stream say.

When to ask, how long to wait and what to do when it breaks is `tasks.design.asking`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tasks.design.answers import Tool
from tasks.design.asking import Body, Coming, Patience, Vendor
from tasks.design.prompt import Prompt

_KEPT: Final = {"cache_control": {"type": "ephemeral"}}


def messages_body(prompt: Prompt) -> dict[str, Any]:
    """The parameters of one request, a cache breakpoint after the system text and after the ledger."""
    volatile = [_text(text) for text in (prompt.request, prompt.repair) if text]
    return {
        "model": prompt.model,
        "max_tokens": prompt.max_tokens,
        "system": [_text(prompt.system) | _KEPT],
        "messages": [{"role": "user", "content": [_text(prompt.ledger) | _KEPT, *volatile]}],
        "tools": [_tool(tool) for tool in prompt.tools],
        "tool_choice": {"type": "tool", "name": prompt.forced, "disable_parallel_tool_use": True},
    }


def with_free_choice(body: Body) -> Body:
    """For models that always think: they refuse a forced tool."""
    return {**body, "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}


class MessagesWire:
    """One key's way to the API. Counts what comes as the API bills it."""

    concessions: Mapping[str, Callable[[Body], Body]] = {"tool_choice": with_free_choice}

    def __init__(self, api_key: str, base_url: str, patience: Patience) -> None:
        import anthropic

        self.sdk: Any = anthropic
        self._client = anthropic.Anthropic(
            api_key=api_key,
            base_url=base_url or None,
            max_retries=0,
            timeout=anthropic.Timeout(patience.silence, connect=min(10.0, patience.silence)),
        )

    def open(self, body: Body) -> Any:
        return self._client.messages.create(**body, stream=True)

    def is_final(self, error: Any) -> bool:
        return False

    def take(self, event: Any, coming: Coming) -> None:
        match event.type:
            case "message_start":
                coming.began = True
                _count(event.message.usage, coming)
            case "content_block_start":
                block = event.content_block
                coming.open((event.index, 0), block.type, getattr(block, "name", ""), getattr(block, "text", "") or "")
            case "content_block_delta":
                pieces = (getattr(event.delta, name, "") for name in ("text", "partial_json", "thinking"))
                coming.add((event.index, 0), "".join(filter(None, pieces)))
            case "message_delta":
                coming.stop_reason = event.delta.stop_reason or coming.stop_reason
                _count(event.usage, coming)
            case "message_stop":
                coming.ended = True


ANTHROPIC: Final = Vendor(
    "anthropic", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "claude-opus-5", messages_body, MessagesWire
)


def _count(usage: Any, coming: Coming) -> None:
    coming.count(
        input_tokens=getattr(usage, "input_tokens", None),
        output_tokens=getattr(usage, "output_tokens", None),
        cache_write_tokens=getattr(usage, "cache_creation_input_tokens", None),
        cache_read_tokens=getattr(usage, "cache_read_input_tokens", None),
    )


def _tool(tool: Tool) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "input_schema": tool.schema}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
