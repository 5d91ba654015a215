"""Prefect task: what an iteration taught, as artifacts in the UI."""

from __future__ import annotations

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from tasks.analyze.leaderboard import campaign_met, standings
from tasks.analyze.summary import artifact_key, iteration_markdown, leaderboard_rows
from tasks.campaign import Campaign
from tasks.store.store import Store


@task(name="analyze", task_run_name="analyze iteration {iteration}", cache_policy=NO_CACHE)
def analyze(campaign: Campaign, iteration: int) -> bool:
    """Publish the leaderboard and the iteration's summary. True when one candidate meets every target on every clip."""
    store = Store.open(campaign.store)
    experiments = store.experiments(campaign.name)
    board = standings(experiments, store.points(campaign.name), campaign.targets, scenes=store.scenes(campaign.name))
    create_table_artifact(
        leaderboard_rows(board),
        key=artifact_key("leaderboard", campaign.name),
        description=f"Leaderboard of campaign **{campaign.name}** after iteration {iteration}",
    )
    create_markdown_artifact(
        iteration_markdown(campaign, iteration, experiments, board),
        key=artifact_key("summary", campaign.name),
        description=f"Iteration {iteration} of campaign {campaign.name}",
    )
    return campaign_met(board, has_select_clips=bool(campaign.select))
