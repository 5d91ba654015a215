"""`evocodec prompt`: what a language model would be sent for a campaign's next candidate."""

from __future__ import annotations

import json

from codec.errors import BadInputError
from tasks.design.budget import ledger, remaining
from tasks.design.designer import Past
from tasks.design.model_designer import ModelDesigner
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
    designer = ModelDesigner.offline(campaign, store, left=left)
    prompt = designer.next_prompt(past)
    if as_json:
        print(json.dumps(designer.vendor.body(prompt), indent=2, ensure_ascii=False))
        return
    print(f"--- {designer.name}, model {prompt.model}, at most {prompt.max_tokens} tokens, tool {prompt.forced}")
    for title, text in (("system", prompt.system), ("ledger", prompt.ledger), ("request", prompt.request)):
        end = "" if title == "request" else ", a cache breakpoint after it"
        print(f"--- {title}: {len(text)} characters{end}\n{text}")
    for tool in prompt.tools:
        print(f"--- tool {tool.name}: {tool.description}\n{json.dumps(tool.schema, indent=2)}")
