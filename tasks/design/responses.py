"""OpenAI's Responses API: what a prompt becomes as a request, and what the events of its stream say.

When to ask, how long to wait and what to do when it breaks is `tasks.design.asking`'s. The client is an extra of the
package: without it a campaign says so before anything is measured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from codec.errors import BadInputError
from tasks.design.answers import Tool
from tasks.design.asking import Body, Coming, Patience, Vendor
from tasks.design.prompt import Prompt

_KEPT: Final = {"prompt_cache_breakpoint": {"mode": "explicit"}}


def responses_body(prompt: Prompt) -> dict[str, Any]:
    """The parameters of one request, a cache breakpoint after the system text and after the ledger and nowhere else."""
    volatile = [_text(text) for text in (prompt.request, prompt.repair) if text]
    return {
        "model": prompt.model,
        "max_output_tokens": prompt.max_tokens,
        "input": [
            {"role": "developer", "content": [_text(prompt.system) | _KEPT]},
            {"role": "user", "content": [_text(prompt.ledger) | _KEPT, *volatile]},
        ],
        "tools": [_tool(tool) for tool in prompt.tools],
        "tool_choice": {"type": "function", "name": prompt.forced},
        "parallel_tool_calls": False,
        "prompt_cache_options": {"mode": "explicit"},
        # Requests that share their longest text are sent to where that text is in the cache.
        "prompt_cache_key": f"evocodec-{hashlib.sha256(prompt.system.encode()).hexdigest()[:32]}",
        "store": False,
    }


def with_free_choice(body: Body) -> Body:
    return {**body, "tool_choice": "auto"}


def without_breakpoints(body: Body) -> Body:
    """For models before gpt-5.6 and other servers: the cache then finds the longest common beginning by itself."""
    plain = [
        message | {"content": [{name: part[name] for name in ("type", "text")} for part in message["content"]]}
        for message in body["input"]
    ]
    kept = {name: value for name, value in body.items() if not name.startswith("prompt_cache")}
    return kept | {"input": plain}


class ResponsesWire:
    """One key's way to the API. Counts what comes as the API bills it: its input tokens include what a cache had."""

    concessions: Mapping[str, Callable[[Body], Body]] = {
        "tool_choice": with_free_choice,
        "prompt_cache": without_breakpoints,
    }

    def __init__(self, api_key: str, base_url: str, patience: Patience) -> None:
        try:
            import openai
        except ImportError as error:
            raise BadInputError(
                "the openai designer needs its client: run `pip install 'evocodec[openai]'`, or use --designer search"
            ) from error
        self.sdk: Any = openai
        self._client = openai.OpenAI(
            api_key=api_key,
            base_url=base_url or None,
            max_retries=0,
            timeout=openai.Timeout(patience.silence, connect=min(10.0, patience.silence)),
        )

    def open(self, body: Body) -> Any:
        return self._client.responses.create(**body, stream=True)

    def is_final(self, error: Any) -> bool:
        """An empty account answers 429 too, and no waiting fills it."""
        return bool(error.code == "insufficient_quota")

    def take(self, event: Any, coming: Coming) -> None:
        match event.type:
            case "response.output_item.added":
                coming.began = True  # what fails before it has put out anything is not charged
                if event.item.type != "message":  # a message's texts come as parts
                    coming.open((event.output_index, 0), *_kind_and_name(event.item))
            case "response.content_part.added":
                coming.open((event.output_index, event.content_index), _PARTS.get(event.part.type, event.part.type))
            case "response.output_text.delta" | "response.refusal.delta":
                coming.add((event.output_index, event.content_index), event.delta)
            case "response.function_call_arguments.delta":
                coming.add((event.output_index, 0), event.delta)
            case "response.completed" | "response.incomplete" | "response.failed":
                _end(event.response, coming)
            case "error":
                coming.failed = event.message


OPENAI: Final = Vendor("openai", "OPENAI_API_KEY", "OPENAI_BASE_URL", "gpt-6.1-sol", responses_body, ResponsesWire)

_PARTS: Final = {"output_text": "text"}


def _kind_and_name(item: Any) -> tuple[str, str]:
    return ("tool_use", item.name) if item.type == "function_call" else (item.type, "")


def _end(response: Any, coming: Coming) -> None:
    if response.usage is not None:
        coming.began = True
        told, details = response.usage, response.usage.input_tokens_details
        read = getattr(details, "cached_tokens", None) or 0
        written = getattr(details, "cache_write_tokens", None) or 0
        coming.count(
            input_tokens=max(0, told.input_tokens - read - written),
            output_tokens=told.output_tokens,
            cache_write_tokens=written,
            cache_read_tokens=read,
        )
    if response.status == "failed":
        coming.failed = response.error.message if response.error is not None else "the response failed"
        return
    incomplete = response.incomplete_details
    coming.stop_reason = incomplete.reason if incomplete is not None and incomplete.reason else response.status
    coming.ended = True


def _tool(tool: Tool) -> dict[str, Any]:
    # Not strict: that would forbid a config of free form.
    schema = {"parameters": tool.schema, "strict": False}
    return {"type": "function", "name": tool.name, "description": tool.description} | schema


def _text(text: str) -> dict[str, Any]:
    return {"type": "input_text", "text": text}
