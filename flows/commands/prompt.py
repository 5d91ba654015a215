"""`evocodec prompt`: what a language model would be sent for a campaign's next candidate."""

from __future__ import annotations

import json

from codec.errors import BadInputError
from tasks.design.anthropic_designer import AnthropicDesigner
from tasks.design.budget import ledger, remaining
from tasks.design.designer import Past
from tasks.store.store import Store


def print_prompt(uri: str, name: str, *, as_json: bool) -> None:
    """The three texts, or with `as_json` the request's whole body. Raises BadInputError for an unknown campaign."""
    store = Store.open(uri)
    campaign = store.read_campaign(name)
    if campaign is None:
        known = ", ".join(store.campaigns()) or "none"
        raise BadInputError(f"no campaign {name!r} in the store: it holds {known}; `evocodec run` begins one")
    iteration = max(store.designs(name), default=0) + 1
    records = store.experiments(name)
    past = Past.of(campaign, iteration, records, store.points(name))
    account = ledger([row for row in records if row.iteration < iteration], store.designs(name))
    left = remaining(campaign.budget, account)
    prompt = AnthropicDesigner.offline(campaign, store, left=left).prompt(past, 1)
    if as_json:
        print(json.dumps(prompt.body(), indent=2, ensure_ascii=False))
        return
    body = prompt.body()
    print(f"--- model {body['model']}, at most {body['max_tokens']} tokens, tool {body['tool_choice']['name']}")
    for title, text in (("system", prompt.system), ("ledger", prompt.ledger), ("request", prompt.request)):
        end = "" if title == "request" else ", a cache breakpoint after it"
        print(f"--- {title}: {len(text)} characters{end}\n{text}")
    print(f"--- tool\n{json.dumps(body['tools'][0], indent=2)}")
