"""The `anthropic` and `openai` designers: a language model reads what happened and writes the next candidates.

Invariants:
- a raw answer is kept before anything is read out of it, so that a loop that was killed asks nothing twice;
- what is made of the answers depends on them and on the past alone: reading them again gives the same candidates;
- the key is read in `from_environment` and goes into the client and nowhere else.
Owns the order of asking, checking and repairing, the same for every vendor. What is sent is `tasks.design.prompt`'s,
how it is asked `tasks.design.asking`'s, what an answer says `tasks.design.answers`'.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from pydantic import ValidationError

from codec.errors import BadInputError, EvocodecError, StoreError
from tasks.campaign import Campaign, ModelPrice
from tasks.candidate import Candidate, Paid
from tasks.design.answers import Answer, Price, Unusable, paid, read_submission, to_candidate
from tasks.design.asking import ModelApi, Patience, Vendor
from tasks.design.brief import Choose, archive_brief
from tasks.design.designer import Past, Rejected
from tasks.design.duplicates import UNTRIED, refusal
from tasks.design.insights import LEDGER_STEP, Insights, insights_id, read_insights, record_insights, settled
from tasks.design.messages import ANTHROPIC
from tasks.design.prices import Usage, usd
from tasks.design.prompt import Prompt, build_prompt, build_rewriting, with_repair
from tasks.design.responses import OPENAI
from tasks.lint import lint
from tasks.store.records import ExperimentRecord
from tasks.store.store import Store

VENDORS: Final[Mapping[str, Vendor]] = {vendor.name: vendor for vendor in (ANTHROPIC, OPENAI)}
# An answer, and one repair of it.
TURNS: Final = 2
# A stream that breaks is asked for again; one that always breaks would be paid for without end.
MOST_BROKEN: Final = 3


class Asks(Protocol):
    """Whoever answers a request: see `ModelApi.ask`."""

    def ask(self, body: Mapping[str, Any]) -> Answer: ...


class _Nobody:
    def ask(self, body: Mapping[str, Any]) -> Answer:
        raise EvocodecError(f"{body['model']} was to be asked without a key")


@dataclass(frozen=True)
class ModelDesigner:
    """Proposes what a model writes. `api` answers, `store` keeps what it answered and has the parents' sources."""

    vendor: Vendor
    api: Asks
    store: Store
    model: str
    choose: Choose = archive_brief
    price: Price = field(default_factory=lambda: listed_price(None))
    left: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.vendor.name

    @classmethod
    def from_environment(
        cls, campaign: Campaign, store: Store, *, left: Mapping[str, float], patience: Patience | None = None
    ) -> ModelDesigner:
        """Raises BadInputError where there is no key, no client of the vendor's, or no price for the model."""
        vendor = VENDORS[campaign.designer]
        key = os.environ.get(vendor.key, "").strip()
        if not key:
            raise BadInputError(
                f"campaign {campaign.name!r} is designed by a model and {vendor.key} is not set: set it where the loop "
                "runs, or use --designer search"
            )
        patience = patience or Patience()
        wire = vendor.wire(key, os.environ.get(vendor.base_url, "").strip(), patience)
        model, price = campaign.model or vendor.default_model, listed_price(campaign.model_price)
        price(model, Usage())
        return cls(vendor, ModelApi(wire, key, patience), store, model, price=price, left=left)

    @classmethod
    def offline(cls, campaign: Campaign, store: Store, *, left: Mapping[str, float]) -> ModelDesigner:
        """One that says what it would ask and cannot ask it: Anthropic's where the campaign needs no model."""
        vendor = VENDORS.get(campaign.designer, ANTHROPIC)
        return cls(vendor, _Nobody(), store, campaign.model or vendor.default_model, left=left)

    def propose(self, past: Past, count: int) -> Sequence[Candidate | Rejected]:
        """One candidate, or what became of the attempt, for each of `count` numbers; fewer at the end of the budget."""
        self.price(self.model, Usage())  # a model without a price is refused before it costs anything
        costs = self._rewrite_ledger(past)
        made: list[Candidate | Rejected] = []
        for number in range(1, count + 1):
            if self._used_up(costs):
                break
            made.append(self._one(past, number, made))
            costs.append(made[-1].lineage.paid if isinstance(made[-1], Candidate) else made[-1].paid)
        return made

    def next_prompt(self, past: Past) -> Prompt:
        """What is sent first in this iteration: one that rewrites the ledger, where that is due, or for a candidate."""
        key = f"{_rewriting_key(settled(past))}-1"
        if self._owes_a_rewriting(past) and self.store.read_answer(past.campaign.name, key) is None:
            return self._rewriting(past)
        return self.prompt(past, 1)

    def prompt(self, past: Past, number: int, made: Sequence[Candidate | Rejected] = ()) -> Prompt:
        """What is sent for candidate `number`, after those `made` in the same iteration."""
        brief = self.choose(past, number, self._load)
        insights = self._insights(past, settled(past))
        return build_prompt(past, brief, self._load, self.model, number, made, self.left, insights)

    def _rewriting(self, past: Past) -> Prompt:
        return build_rewriting(past, self._load, self.model, self._insights(past, settled(past) - LEDGER_STEP))

    def _rewrite_ledger(self, past: Past) -> list[Paid | None]:
        """What the insights of ten more experiments cost, where they are asked for in this iteration."""
        if not self._owes_a_rewriting(past):
            return []
        count = settled(past)
        answers = self._answers(past, _rewriting_key(count), self.vendor.body(self._rewriting(past)))
        cost = paid(answers, self.price)
        record_insights(self.store, past, read_insights(answers[-1], past, count), self.name, cost)
        return [cost]

    def _owes_a_rewriting(self, past: Past) -> bool:
        """Not where an iteration before had it, whatever came of it; where this one had it, it is read again."""
        count = settled(past)
        if not count or self._used_up([]):
            return False
        wanted = insights_id(past.campaign.name, count)
        had = (row for row in self.store.experiments(past.campaign.name) if row.experiment_id == wanted)
        return not any(row.iteration < past.iteration for row in had)

    def _insights(self, past: Past, count: int) -> Insights | None:
        """The latest that hold, of `count` experiments or fewer."""
        for done in range(count, 0, -LEDGER_STEP):
            for number in range(MOST_BROKEN, 0, -1):
                answer = self._on_record(past.campaign.name, f"{_rewriting_key(done)}-{number}")
                insights = read_insights(answer, past, done) if answer is not None else None
                if insights is not None and insights.lines:
                    return insights
        return None

    def _used_up(self, costs: Sequence[Paid | None]) -> bool:
        """Whether these alone have spent what was left: what an answer costs is known only afterwards."""
        usd = sum(cost.usd for cost in costs if cost is not None)
        tokens = sum(cost.input_tokens + cost.output_tokens for cost in costs if cost is not None)
        return usd >= self.left.get("usd", math.inf) or tokens >= self.left.get("tokens", math.inf)

    def _one(self, past: Past, number: int, made: Sequence[Candidate | Rejected]) -> Candidate | Rejected:
        experiment_id = f"{past.campaign.name}-{past.iteration:03d}-{number}"
        prompt = self.prompt(past, number, made)
        answers: list[Answer] = []
        verdict = Rejected(experiment_id, self.name)
        for turn in range(1, TURNS + 1):
            body = self.vendor.body(prompt if turn == 1 else with_repair(prompt, answers[-1], verdict.reason))
            answers += self._answers(past, f"{past.iteration:04d}-{number}-{turn}", body)
            cost = paid(answers, self.price)
            outcome = self._read(answers[-1], experiment_id, past, made)
            if isinstance(outcome, Candidate):
                return _with_lineage(outcome, cost, prompt.parents)
            verdict = replace(outcome, paid=cost)
        return verdict

    def _answers(self, past: Past, key: str, body: Mapping[str, Any]) -> list[Answer]:
        """The answer to one request, after those that broke off and were paid for all the same."""
        answers: list[Answer] = []
        for number in range(1, MOST_BROKEN + 1):
            answers.append(self._kept(past.campaign.name, f"{key}-{number}", body))
            if answers[-1].complete:
                break
        return answers

    def _kept(self, campaign: str, key: str, body: Mapping[str, Any]) -> Answer:
        """The answer on record, or a new one, which is on record before it is returned."""
        kept = self._on_record(campaign, key)
        if kept is not None:
            return kept
        request = json.dumps(body, sort_keys=True).encode()
        request_hash = hashlib.sha256(request).hexdigest()
        answer = self.api.ask(body).model_copy(update={"request_hash": request_hash})
        self.store.write_answer(campaign, key, answer.model_dump_json(indent=1).encode())
        self.store.put_blob(request)  # after the answer, which must not wait for anything
        return answer

    def _on_record(self, campaign: str, key: str) -> Answer | None:
        data = self.store.read_answer(campaign, key)
        try:
            return None if data is None else Answer.model_validate_json(data)
        except ValidationError as error:
            raise StoreError(f"the kept answer {key} of {campaign} cannot be read; move it away") from error

    def _read(
        self, answer: Answer, experiment_id: str, past: Past, made: Sequence[Candidate | Rejected]
    ) -> Candidate | Rejected:
        """The candidate in an answer, or what keeps it from being run."""
        refused = Rejected(experiment_id, self.name)
        if not answer.complete:
            return replace(refused, reason=f"the answer never came whole: {answer.error}")
        tried = {record.experiment_id: record for record in past.experiments if record.kind == "candidate"}
        try:
            submission = read_submission(answer)
            refused = replace(refused, hypothesis=submission.hypothesis, change_class=submission.change_class)
            parent = submission.parent_id
            if parent is not None and parent not in tried:
                return replace(refused, reason=f"parent_id {parent!r} is no experiment of this campaign")
            source = self._load(tried[parent].candidate_hash) if parent is not None else None
            candidate = to_candidate(submission, experiment_id, self.name, source)
        except Unusable as error:
            return replace(refused, reason=str(error))
        refused = replace(refused, candidate=candidate)
        advice = lint(candidate)
        if advice:
            return replace(refused, reason="; ".join(advice))
        reason = refusal(candidate, self._known(tried.values(), made))
        if reason:
            return replace(refused, reason=reason, status="duplicate")
        return candidate

    def _known(self, tried: Iterable[ExperimentRecord], made: Sequence[Candidate | Rejected]) -> dict[str, Candidate]:
        """What a new candidate must differ from, by experiment id."""
        found = {
            record.experiment_id: self._load(record.candidate_hash)
            for record in tried
            if record.candidate_hash and record.status not in UNTRIED
        }
        known = {name: candidate for name, candidate in found.items() if candidate is not None}
        return known | {one.lineage.id: one for one in made if isinstance(one, Candidate)}

    def _load(self, candidate_hash: str) -> Candidate | None:
        """None where its sources are gone, or are no longer a candidate's: the prompt then goes without them."""
        try:
            return Candidate.from_json_bytes(self.store.get_blob(candidate_hash))
        except EvocodecError:
            return None


def _rewriting_key(count: int) -> str:
    return f"ledger-{count:04d}"


def listed_price(override: ModelPrice | None) -> Price:
    """By the price list, or by the user's own price."""

    def price(model: str, usage: Usage, /) -> float:
        return usd(model, usage, override)

    return price


def _with_lineage(candidate: Candidate, cost: Paid, ordered: Sequence[str]) -> Candidate:
    """With what it cost; a crossover of what was ordered has all of its parents."""
    lineage = candidate.lineage
    crossed = lineage.change_class == "crossover" and set(lineage.parents) <= set(ordered)
    parents = tuple(ordered) if crossed else lineage.parents
    return candidate.model_copy(update={"lineage": lineage.model_copy(update={"paid": cost, "parents": parents})})
