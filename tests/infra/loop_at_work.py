"""The loop's own work, without a frame in sight: run by a test with the codec's libraries out of reach.

`python loop_at_work.py FOLDER [LIBRARY ...]`: LIBRARY may not be imported. Prints what was done, as JSON; fails where
any step needs more than the loop's image has.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import io
import json
import sys
from pathlib import Path

PROCESSES = (
    "flows.loop",
    "flows.experiment",
    "flows.anchors",
    "flows.verify",
    "flows.follow",
    "prefect_aws.workers.ecs_worker",
    "prefect.workers.process",
    "prefect.cli",
)


class OutOfReach(importlib.abc.MetaPathFinder):
    def __init__(self, names: set[str]) -> None:
        self._names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in self._names:
            raise ModuleNotFoundError(f"{name} is not in the loop's image", name=name)


def main(folder: Path, libraries: set[str]) -> None:
    sys.meta_path.insert(0, OutOfReach(libraries))
    for name in PROCESSES:
        importlib.import_module(name)

    from prefect_aws.workers.ecs_worker import ECS_DEFAULT_COMMAND
    from rich.console import Console
    from sample_records import anchor, curve, experiment, scenes, verified

    from codec.errors import BadInputError
    from flows.commands.prompt import print_prompt
    from flows.commands.run import run_command
    from tasks.analyze.leaderboard import standings
    from tasks.analyze.report import write_report
    from tasks.campaign import Campaign
    from tasks.design.designer import Past, make_designer
    from tasks.store.store import Store

    store = Store.open(str(folder / "store"), create=True)
    campaign = Campaign(name="night", store=str(folder / "store"), clips=("talk",))
    store.write_campaign(campaign)
    store.write_experiment(anchor("x265-medium", "x265", "medium"), curve("night-x265-medium", "talk"), [])
    for record in verified([experiment("night-001-1", minutes=1)]):
        measured = record.kind == "candidate"
        rows = curve(record.experiment_id, "talk", 0.8) if measured else []
        store.write_experiment(record, rows, scenes(record.experiment_id, "talk") if measured else [])
    records, points = store.experiments("night"), store.points("night")
    proposals = make_designer(campaign, store).propose(Past.of(campaign, 2, records, points), 3)
    board = standings(records, points, campaign.targets, scenes=store.scenes("night"))
    store.compact("night")
    write_report(folder / "report.html", store, "night")
    with contextlib.redirect_stdout(io.StringIO()) as prompt:
        print_prompt(campaign.store, "night", as_json=False)
    try:
        run_command(campaign, Console(), server="http://127.0.0.1:9", port=None, home=folder)
        refused = ""
    except BadInputError as error:
        refused = str(error)
    sys.argv = ["evocodec", "measure", "a.y4m", "b.y4m"]
    with contextlib.redirect_stderr(io.StringIO()) as complaint, contextlib.suppress(SystemExit):
        importlib.import_module("flows.cli").main()
    print(
        json.dumps(
            {
                "designed": len(proposals),
                "bd_rate": board[0].mean_bd_rate,
                "ranked": [row.experiment_id for row in board],
                "report_bytes": (folder / "report.html").stat().st_size,
                "prompt_characters": len(prompt.getvalue()),
                "refused": refused,
                "needs_the_codec": complaint.getvalue().strip(),
                "ecs_command": ECS_DEFAULT_COMMAND.split(),
                "torch": "torch" in sys.modules,
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), set(sys.argv[2:]))
