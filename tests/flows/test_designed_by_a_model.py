"""A campaign that a language model designs, end to end: real loop, real workers, a scripted Messages API."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from messages_api import MessagesServer
from running import clean_environment
from scripted_model import good, limited, malformed, refusal

from flows.local import LocalLab
from tasks.campaign import Campaign
from tasks.candidate import Candidate
from tasks.store.store import Store

ROOT = Path(__file__).resolve().parent.parent.parent
KEY = "sk-ant-a-key-for-the-loop-alone"
RUN_LOOP = """
import json, sys
from flows.loop import research_loop
from tasks.campaign import Campaign
research_loop(Campaign.model_validate_json(sys.argv[1]))
print("MODULES", json.dumps(sorted({"torch", "av", "cv2"} & set(sys.modules))))
"""


def submission(preset: str, parent: str | None = None) -> dict[str, Any]:
    seed = Candidate.load(ROOT / "tasks" / "design" / "seeds" / "evocodec")
    return {
        "hypothesis": f"x264 at {preset}",
        "change_class": "improve" if parent else "draft",
        "parent_id": parent,
        "predicted": {"bd_rate_percent": 20, "tera_ops_per_frame": 0},
        "files": dict(seed.files),
        "config": {"strategy": "x264", "preset": preset},
    }


@pytest.mark.slow
def test_every_answer_comes_to_its_right_end(lab: LocalLab, tmp_path: Path) -> None:
    campaign = Campaign(
        name="written",
        designer="anthropic",
        iterations=2,
        candidates=2,
        max_frames=6,
        stop_when_met=False,
        store=str(tmp_path / "store"),
    )
    script = [
        *(limited(0.1), good(submission("medium"))),  # written-001-1: measured
        *(malformed(), refusal()),  # written-001-2: rejected
        *(good(submission("medium")), good(submission("medium"))),  # written-002-1: the same again, twice
        good(submission("slow", "written-001-1")),  # written-002-2: measured
    ]
    with MessagesServer(script) as server:
        process = subprocess.run(
            [sys.executable, "-c", RUN_LOOP, campaign.model_dump_json()],
            env=clean_environment()
            | {"PREFECT_API_URL": lab.api_url, "PREFECT_HOME": str(lab.home / "prefect")}
            | {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": server.url},
            capture_output=True,
            text=True,
            timeout=400,
        )
    assert process.returncode == 0, process.stderr[-3000:]
    assert "MODULES []" in process.stdout
    assert server.unused == 0
    store = Store.open(campaign.store)
    found = {record.experiment_id: record for record in store.experiments("written") if record.kind == "candidate"}
    assert {name: record.status for name, record in found.items()} == {
        "written-001-1": "measured",
        "written-001-2": "rejected",
        "written-002-1": "duplicate",
        "written-002-2": "measured",
    }
    assert found["written-002-2"].parents == ("written-001-1",)
    assert [round(record.usd / found["written-001-1"].usd) for _, record in sorted(found.items())] == [1, 2, 2, 1]
    # Nor is the key in anything that the lab (its database and logs) or the store has kept.
    assert KEY not in process.stdout + process.stderr + json.dumps(server.requests)
    for folder in (lab.home, tmp_path / "store"):
        for path in folder.rglob("*"):
            if path.is_file():
                assert KEY.encode() not in path.read_bytes(), path
