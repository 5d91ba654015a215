"""The design task of the loop, without the loop: what a model answers comes on record once, within the budget.

The whole campaign, with its workers, is `tests/flows/test_designed_by_a_model.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from messages_api import MessagesServer
from prefect.logging import disable_run_logger
from scripted_model import cut, good, limited, malformed, refusal
from test_model_designer import KEY, submission

from tasks.campaign import Budget, Campaign, CandidateRef
from tasks.design.budget import ledger
from tasks.design.step import design
from tasks.store.store import Store

# At the listed price of claude-opus-5: see the tokens in `messages_api`.
ANSWER = (700 * 5 + 4000 * 6.25 + 9000 * 0.5 + 1500 * 25) / 1e6
CUT_ANSWER = (700 * 5 + 4000 * 6.25 + 9000 * 0.5 + 10 * 25) / 1e6


def designed(campaign: Campaign, iteration: int) -> tuple[CandidateRef, ...]:
    with disable_run_logger():
        return design.fn(campaign, iteration)


def test_what_a_model_answers_is_on_record_once_and_within_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The cap is passed by the third, so the fourth is not asked for.
    budget = Budget(usd=4.5 * ANSWER)
    campaign = Campaign(name="night", designer="anthropic", candidates=4, store=str(tmp_path), budget=budget)
    script = [
        *(limited(0.01), good(submission(1))),  # night-001-1: a candidate
        *(malformed(), refusal()),  # night-001-2: rejected
        *(cut(submission(1)), good(submission(1)), good(submission(1))),  # night-001-3: the first again, twice
        good(submission(4)),
    ]
    store = Store.open(campaign.store, create=True)
    with MessagesServer(script) as server:
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        refs = designed(campaign, 1)
        assert server.unused == 1
        assert [ref.experiment_id for ref in refs] == ["night-001-1"]
        # Killed before the design was written down, and after: nothing is asked for or recorded again.
        (tmp_path / "campaigns/night/designs/0001.json").unlink()
        assert designed(campaign, 1) == designed(campaign, 1) == refs
        assert server.unused == 1
    found = {record.experiment_id: (record.status, record.usd) for record in store.experiments("night")}
    assert found == {
        "night-001-2": ("rejected", pytest.approx(2 * ANSWER)),
        "night-001-3": ("duplicate", pytest.approx(2 * ANSWER + CUT_ANSWER)),
    }
    # What the candidate cost is on record with its first attempt; until then it is in flight at the mean.
    account = ledger(store.experiments("night"), store.designs("night"))
    assert account.in_flight == 1
    assert account.spent.usd == pytest.approx(4 * ANSWER + CUT_ANSWER)
