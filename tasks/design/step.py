"""Prefect task: the candidates of one iteration, from the designer or, when resuming, from what it designed before."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.campaign import Campaign, CandidateRef
from tasks.design.budget import affordable, ledger, remaining
from tasks.design.designer import Past, Rejected, make_designer
from tasks.design.duplicates import duplicates
from tasks.design.rejected import record_rejected
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
    past = Past.of(campaign, iteration, records, store.points(campaign.name))
    # What this iteration has on record already, when resumed, was within the same budget the first time.
    account = ledger([row for row in records if row.iteration < iteration], store.designs(campaign.name))
    count = affordable(campaign.budget, account, campaign.candidates)
    if not count:
        return ()  # not kept: with a larger budget this iteration is designed yet
    refs = []
    for proposal in make_designer(campaign, store, remaining(campaign.budget, account)).propose(past, count):
        if isinstance(proposal, Rejected):
            record_rejected(store, campaign, iteration, proposal)
            get_run_logger().warning("%s %s: %s", proposal.experiment_id, proposal.status, proposal.reason)
            continue
        candidate_hash = store.put_blob(proposal.to_json_bytes())
        refs.append(CandidateRef(experiment_id=proposal.lineage.id, candidate_hash=candidate_hash, iteration=iteration))
        get_run_logger().info("%s: %s", proposal.lineage.id, proposal.lineage.hypothesis)
    store.write_design(campaign.name, iteration, tuple(refs))
    refuse_duplicates(store, campaign, refs)
    return tuple(refs)


def refuse_duplicates(store: Store, campaign: Campaign, refs: Sequence[CandidateRef]) -> None:
    """Record those of `refs` that were tried already, so that no worker's time goes to them. Repeats nothing."""
    records = store.experiments(campaign.name)
    for record in duplicates(store, campaign.name, refs, records):
        get_run_logger().info("%s: %s: %s", record.experiment_id, record.status, record.reason)
        store.write_experiment(record, (), ())
