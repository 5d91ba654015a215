"""What a dispatched experiment costs beyond its own work: one small campaign on a lab of its own, taken apart.

    python benchmarks/loop_overhead.py [candidates]

Prints, per dispatched run, where the time from dispatch to the run's end went. "Work" is what the records say: the time
from the start to the end of each attempt (encode, decode, measure, and starting their processes).
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from rich.console import Console
from rich.table import Table

from flows.follow import run_campaign
from flows.local import LocalLab, prefect_api
from tasks.campaign import Campaign
from tasks.store.store import Store


def main(candidates: int) -> None:
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(name="overhead", iterations=1, candidates=candidates, store=f"{folder}/store")
        clock = time.monotonic()
        with LocalLab(Path(folder) / ".evocodec") as lab, prefect_api(lab.api_url):
            lab_seconds = time.monotonic() - clock
            run_campaign(campaign, console)
            with get_client(sync_client=True) as client:
                tags = FlowRunFilter(tags=FlowRunFilterTags(all_=["campaign:overhead"]))
                runs = client.read_flow_runs(flow_run_filter=tags)
        store = Store.open(campaign.store)
        table = Table("run", "attempts", "wait s", "start s", "work s", "rest s", "overhead s", "overhead s/attempt")
        for run in sorted(runs, key=lambda run: run.created or 0):
            records = [record for record in store.experiments("overhead") if record.flow_run_id == str(run.id)]
            if not records or not (run.created and run.start_time and run.end_time):
                continue
            wait = (run.start_time - run.created).total_seconds()
            start = (records[0].started_at - run.start_time).total_seconds()
            work = sum(record.gpu_seconds for record in records)
            total = (run.end_time - run.created).total_seconds()
            cells = (wait, start, work, total - wait - start - work, total - work, (total - work) / len(records))
            table.add_row(run.name, str(len(records)), *(f"{cell:.1f}" for cell in cells))
        points = store.points("overhead")
        candidate_seconds = sum(point.encode_seconds + point.decode_seconds for point in points)
        work = sum(record.gpu_seconds for record in store.experiments("overhead"))
    console.print(f"{platform.machine()}, {os.cpu_count()} cores; lab started in {lab_seconds:.1f} s (new database)")
    console.print(table)
    console.print(
        f"{len(points)} rate points, two at a time: {candidate_seconds / len(points):.2f} s of candidate code a point, "
        f"{2 * work / len(points):.2f} s a point in all (processes, VMAF, operations, the cascade's other stages)"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
