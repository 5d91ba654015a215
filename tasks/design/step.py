"""Prefect task: the candidates of one iteration, from the designer or, when resuming, from what it designed before."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.campaign import Campaign, CandidateRef
from tasks.design.budget import affordable, ledger
from tasks.design.designer import Past, make_designer
from tasks.design.duplicates import duplicates
from tasks.store.store import Store


@task(name="design", task_run_name="design iteration {iteration}", cache_policy=NO_CACHE)
def design(campaign: Campaign, iteration: int) -> tuple[CandidateRef, ...]:
    """Kept in the store before anything is dispatched: a resumed campaign neither loses nor repeats a design."""
    store = Store.open(campaign.store)
    kept = store.designs(campaign.name).get(iteration)
    if kept is not None:
        refuse_duplicates(store, campaign, kept)
        return kept
    records = store.experiments(campaign.name)
    count = affordable(campaign.budget, ledger(records, store.designs(campaign.name)), campaign.candidates)
    if not count:
        return ()  # not kept: with a larger budget this iteration is designed yet
    past = Past.of(campaign, iteration, records, store.points(campaign.name))
    candidates = make_designer(campaign).propose(past, count)
    refs = tuple(
        CandidateRef(
            experiment_id=f"{campaign.name}-{iteration:03d}-{number}",
            candidate_hash=store.put_blob(candidate.to_json_bytes()),
            iteration=iteration,
        )
        for number, candidate in enumerate(candidates, start=1)
    )
    store.write_design(campaign.name, iteration, refs)
    for ref, candidate in zip(refs, candidates, strict=True):
        get_run_logger().info("%s: %s", ref.experiment_id, candidate.lineage.hypothesis)
    refuse_duplicates(store, campaign, refs)
    return refs


def refuse_duplicates(store: Store, campaign: Campaign, refs: Sequence[CandidateRef]) -> None:
    """Record those of `refs` that were tried already, so that no worker's time goes to them. Repeats nothing."""
    records = store.experiments(campaign.name)
    for record in duplicates(store, campaign.name, refs, records):
        get_run_logger().info("%s: %s: %s", record.experiment_id, record.status, record.reason)
        store.write_experiment(record, (), ())
