"""Prefect task: the candidates of one iteration, from the designer or, when resuming, from what it designed before."""

from __future__ import annotations

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.campaign import Campaign, CandidateRef
from tasks.design.designer import Past, Rejected, make_designer
from tasks.design.rejected import record_rejected
from tasks.store.store import Store


@task(name="design", task_run_name="design iteration {iteration}", cache_policy=NO_CACHE)
def design(campaign: Campaign, iteration: int) -> tuple[CandidateRef, ...]:
    """Kept in the store before anything is dispatched: a resumed campaign neither loses nor repeats a design."""
    store = Store.open(campaign.store)
    kept = store.designs(campaign.name).get(iteration)
    if kept is not None:
        return kept
    past = Past.of(campaign, iteration, store.experiments(campaign.name), store.points(campaign.name))
    refs = []
    for proposal in make_designer(campaign, store).propose(past, campaign.candidates):
        if isinstance(proposal, Rejected):
            record_rejected(store, campaign, iteration, proposal)
            get_run_logger().warning("%s %s: %s", proposal.experiment_id, proposal.status, proposal.reason)
            continue
        candidate_hash = store.put_blob(proposal.to_json_bytes())
        refs.append(CandidateRef(experiment_id=proposal.lineage.id, candidate_hash=candidate_hash, iteration=iteration))
        get_run_logger().info("%s: %s", proposal.lineage.id, proposal.lineage.hypothesis)
    store.write_design(campaign.name, iteration, tuple(refs))
    return tuple(refs)
