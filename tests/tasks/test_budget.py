"""Budgets: nothing spent is forgotten, nothing in flight is free, and a cap stops the loop with its name."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from sample_records import anchor, experiment, verified

from codec.errors import BadInputError
from tasks.campaign import Budget, Campaign, CandidateRef, ModelPrice
from tasks.design.budget import Ledger, Spend, affordable, ledger, remaining, stopped_by
from tasks.store.store import Store
from tasks.store.terms import require_same_terms

PAID = {"usd": 0.5, "input_tokens": 900, "output_tokens": 100, "gpu_seconds": 10.0}


def refs(iteration: int, count: int) -> tuple[CandidateRef, ...]:
    return tuple(
        CandidateRef(experiment_id=f"night-{iteration:03d}-{number}", candidate_hash="0" * 64, iteration=iteration)
        for number in range(1, count + 1)
    )


def test_every_attempt_is_paid_for_and_only_candidates_are_experiments() -> None:
    records = [
        anchor("x265-medium", "x265", "medium"),  # 12.5 s
        experiment("night-001-1", status="infrastructure", attempt=1, **PAID),
        experiment("night-001-1", attempt=2, gpu_seconds=10.0),
        experiment("night-001-2", status="rejected", usd=0.25, gpu_seconds=0.0),
        experiment("night-001-1.sealed", kind="control", gpu_seconds=3.0),
    ]
    account = ledger(verified(records))
    assert account.spent == Spend(usd=0.75, tokens=1000, gpu_seconds=12.5 + 10 + 10 + 3 + 1, experiments=2)
    assert account.per_experiment == Spend(usd=0.375, tokens=500, gpu_seconds=12.0, experiments=1)
    assert account.in_flight == 0


def test_what_is_designed_and_not_on_record_counts_at_the_mean_cost() -> None:
    records = [experiment("night-001-1", **PAID), experiment("night-001-2", **(PAID | {"usd": 1.5}))]
    account = ledger(records, {1: refs(1, 2), 2: refs(2, 3)})
    assert account.in_flight == 3
    assert account.committed == Spend(usd=2 + 3 * 1.0, tokens=5000, gpu_seconds=50, experiments=5)
    assert remaining(Budget(usd=6, experiments=4), account) == {"usd": 1.0, "experiments": 0.0}


def test_what_was_paid_and_is_on_no_record_yet_counts_too() -> None:
    account = ledger([experiment("night-001-1", **PAID)], unrecorded=Spend(usd=2.0, tokens=50))
    assert (account.spent.usd, account.spent.tokens) == (2.5, 1050)
    assert account.per_experiment.usd == 0.5  # an answer that became no experiment makes the next no dearer


def test_the_anchors_stand_for_an_unknown_worker_time() -> None:
    account = ledger([anchor("x265-medium", "x265", "medium"), anchor("svtav1-p6", "av1", "6")])
    assert account.per_experiment.gpu_seconds == 12.5
    assert affordable(Budget(gpu_seconds=60), account, 8) == 2  # 25 s are spent
    assert affordable(Budget(usd=0.01, tokens=1), account, 8) == 8  # nothing is known of a model's price yet


@pytest.mark.parametrize(
    ("budget", "count"),
    [
        (Budget(), 4),
        (Budget(experiments=12), 2),
        (Budget(usd=5.8), 1),
        (Budget(usd=6.5, tokens=13_000, gpu_seconds=130), 3),
        (Budget(usd=100, tokens=10_999), 0),
        (Budget(gpu_seconds=99), 0),
    ],
)
def test_fewer_are_designed_than_wanted_where_a_cap_is_near(budget: Budget, count: int) -> None:
    records = [experiment(f"night-001-{number}", **PAID) for number in range(10)]
    account = ledger(records)
    assert affordable(budget, account, 4) == count
    assert bool(stopped_by(budget, account)) == (count == 0)


def test_a_cap_is_reached_by_name() -> None:
    account = Ledger(Spend(usd=9.8, tokens=10, gpu_seconds=7200, experiments=40), Spend(usd=0.245, experiments=1))
    assert stopped_by(Budget(usd=10), account) == (
        "the budget of 10 dollars is used up (9.8 committed; an experiment takes about 0.245)"
    )
    assert stopped_by(Budget(usd=20, experiments=40), account) == (
        "the budget of 40 experiments is used up (40 committed)"
    )


def test_ten_thousand_equal_costs_fill_a_cap_exactly() -> None:
    """Sums of floats must not cost an experiment."""
    account = Ledger(Spend(usd=sum([0.1] * 7)), Spend(usd=0.1, experiments=1))
    assert affordable(Budget(usd=1.0), account, 8) == 3


def test_budget_and_price_may_change_when_a_campaign_is_resumed(tmp_path_factory: pytest.TempPathFactory) -> None:
    campaign = Campaign(name="night", store=str(tmp_path_factory.mktemp("store")), budget=Budget(usd=1))
    store = Store.open(campaign.store, create=True)
    store.write_campaign(campaign)
    price = ModelPrice(input=1, output=2, cache_write=3, cache_read=0.5)
    require_same_terms(store, campaign.model_copy(update={"budget": Budget(usd=5, experiments=9)}))
    require_same_terms(store, campaign.model_copy(update={"model_price": price}))
    with pytest.raises(BadInputError, match="max_frames"):
        require_same_terms(store, campaign.model_copy(update={"max_frames": 5, "budget": Budget()}))
    assert store.read_campaign("night") == campaign


@pytest.mark.parametrize("cap", ["usd", "tokens", "gpu_seconds", "experiments"])
def test_a_cap_of_nothing_is_refused(cap: str) -> None:
    with pytest.raises(ValidationError):
        Budget.model_validate({cap: 0})
