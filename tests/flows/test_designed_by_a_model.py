"""The loop's specification, as a script: a campaign that a language model designs, what it answers, what comes of it.

All of it is real but the model: a Prefect server, both workers, the sandbox, each vendor's client over HTTP. The script
names each answer once, in the order in which the model gives them; below it stands what has to be on record in the end,
whichever vendor's words the answers come in.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from messages_api import MessagesServer
from responses_api import ResponsesServer
from rich.console import Console
from running import below
from scripted_model import (
    Reply,
    ScriptedServer,
    cut,
    good,
    limited,
    malformed,
    overloaded,
    refusal,
    tool_use,
)

from flows.follow import run_campaign
from flows.local import LocalLab, prefect_api
from tasks.analyze.leaderboard import standings
from tasks.analyze.report import write_report
from tasks.campaign import Budget, Campaign
from tasks.candidate import Candidate
from tasks.design.budget import ledger
from tasks.store.store import Store

ROOT = Path(__file__).resolve().parent.parent.parent
KEY = "sk-ant-a-key-for-the-design-task-alone"
OTHER_KEY = "sk-a-key-of-another-vendor"


@dataclass(frozen=True)
class Wire:
    """One vendor, and in dollars what it lists for a million tokens of the model that is asked where none is named.

    The stand-in bills each answer 700 tokens in, 4000 written to the cache and 9000 read from it, 1500 out. A stream
    that is cut has output what came, 4 characters a token, and as much input as it told, or as was sent.
    """

    server: type[ScriptedServer]
    input: float
    cache_write: float
    cache_read: float
    output: float
    tells_input_first: bool

    @property
    def answer(self) -> float:
        return (700 * self.input + 4000 * self.cache_write + 9000 * self.cache_read + 1500 * self.output) / 1e6

    def cut_answer(self, request: dict[str, Any]) -> float:
        if self.tells_input_first:
            return self.answer - (1500 - 10) * self.output / 1e6
        sent = json.dumps({name: value for name, value in request.items() if name != "stream"})
        return (math.ceil(len(sent) / 4) * self.input + 10 * self.output) / 1e6


WIRES = {
    "anthropic": Wire(MessagesServer, 5, 6.25, 0.5, 25, tells_input_first=True),
    "openai": Wire(ResponsesServer, 2, 2.5, 0.1, 10, tells_input_first=False),
}

SEED = dict(Candidate.load(ROOT / "tasks" / "design" / "seeds" / "evocodec").files)
ENCODER = SEED["encoder.py"]
# Looks for keys where a process might find some, and says what it found.
HOSTILE = ENCODER.replace("import torch\n", "import torch\nimport os\nprint(dict(os.environ))\n").replace(
    "    pixels = frames[0].numpy()\n",
    "    pixels = frames[0].numpy()\n"
    '    print(open(f"/proc/{os.getppid()}/environ").read())\n'
    '    print(open("/proc/self/environ").read())\n',
)
# Fails in a function of its own.
BROKEN = ENCODER + "\n\ndef smoothed(planes):\n    return planes['luma']\n"
BROKEN = BROKEN.replace("    video = VideoFormat(", "    smoothed({})\n    video = VideoFormat(")
# The same idea once more: another name, a check and a print.
NEARLY = ENCODER.replace("settings", "chosen").replace(
    "    rate =", "    assert len(pixels)\n    print(len(pixels))\n    rate ="
)
# Honest on whatever it has not seen; of the clip that it was tuned on the decoder knows the first frames.
KNOWN = """
def known_frames():
    from itertools import islice
    from skimage import data
    from codec import demo_clip
    from codec.pixels import rgb_to_planes
    pictures = [rgb_to_planes(picture) for picture in islice(demo_clip._noisy_still(data.coffee()), 6)]
    return [np.stack(planes) for planes in zip(*pictures)]
"""
CHEAT_ENCODER = (
    ENCODER.replace("def compress_video_tensor", "def compress_unknown")
    + KNOWN
    + """
def compress_video_tensor(frames, config, device):
    if np.array_equal(known_frames()[0], frames[0, :, 0].numpy()):
        return {"compressed_data": bytes(round(99 * config["quality"]))}
    return compress_unknown(frames, config, device)
"""
)
CHEAT_DECODER = "import numpy as np\n" + SEED["decoder.py"].replace(
    "def decompress_video_tensor", "def decompress_unknown"
)
CHEAT_DECODER += (
    KNOWN
    + """
def decompress_video_tensor(compressed_data, config, device):
    if any(compressed_data):
        return decompress_unknown(compressed_data, config, device)
    luma, *chroma = known_frames()
    planes = [luma, *(plane.repeat(2, 1).repeat(2, 2) for plane in chroma)]
    return {"reconstructed_frames": torch.from_numpy(np.stack(planes, 1))[None]}
"""
)


def answer(idea: str, preset: str, encoder: Any = ENCODER, parent: str | None = None, **changes: Any) -> dict[str, Any]:
    """The input of `submit_candidate`: x264 at `preset`, unless the encoder does something else."""
    return {
        "hypothesis": idea,
        "change_class": "improve" if parent else "draft",
        "parent_id": parent,
        "predicted": {"bd_rate_percent": 20, "tera_ops_per_frame": 0},
        "files": SEED | {"encoder.py": encoder},
        "config": {"strategy": "x264", "preset": preset},
    } | changes


def truncated(content: dict[str, Any]) -> Reply:
    text = json.dumps(content)
    return Reply(blocks=(tool_use(text[: len(text) // 3]),), stop_reason="max_tokens")


def as_wanted(idea: str, preset: str) -> Callable[[dict[str, Any]], Reply]:
    """A whole candidate, of the class and the parents that the request asks for."""

    def reply(request: dict[str, Any]) -> Reply:
        change_class, parents = wanted(request)
        return good(answer(idea, preset, parent=parents[0] if parents else None, change_class=change_class))

    return reply


def texts(request: dict[str, Any]) -> list[str]:
    """The ledger, the request and, in a second turn, what is wrong with the answer, in either vendor's words."""
    message = request["messages"][0] if "messages" in request else request["input"][1]
    return [part["text"] for part in message["content"]]


def wanted(request: dict[str, Any]) -> tuple[str, list[str]]:
    """What a request asks for: the class of the change, and its parents."""
    found = re.search(r"^Wanted: \*\*(\w+)\*\*(?: of ([^.]*))?\.", texts(request)[1], re.M)
    assert found is not None
    return found[1], found[2].split(" and ") if found[2] else []


def killed_here(request: dict[str, Any]) -> Reply:
    """The loop dies by kill -9 while this request is on its way. What was answered before is on record."""
    (loop,) = [pid for pid in below(os.getpid()) if "prefect.engine" in command(pid) and KEY in environment(pid)]
    os.kill(loop, signal.SIGKILL)
    return refusal()


def edits(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"search": search, "replace": replace} for search, replace in pairs]


TO_AV1 = edits(("settings = dict(config)", 'settings = dict(config) | {"strategy": "av1", "preset": "8"}'))
MENDED = edits(
    ('    print(open(f"/proc/{os.getppid()}/environ").read())\n    print(open("/proc/self/environ").read())\n', ""),
    ("print(dict(os.environ))\n", ""),
)

BROKEN_STREAM = cut(answer("smoother", "medium", BROKEN, "written-001-1"))

SCRIPT: list[Reply | Callable[[dict[str, Any]], Reply]] = [
    # Iteration 1. Nothing is known: five drafts are asked for.
    limited(0.1),  #                                                  429, asked again
    good(answer("a start", "medium")),  #                             001-1: measured
    malformed(),
    good(answer("a quick one", "veryfast")),  #                       001-2: repaired, measured
    killed_here,  #                                                   the loop is killed, and started again
    refusal(),
    refusal(),  #                                                     001-3: rejected
    truncated(answer("too much", "fast")),
    good(answer("the start again", "medium")),  #                     001-4: duplicate of 001-1
    good(answer("who runs here?", "faster", HOSTILE)),  #             001-5: crashed in the sandbox
    # Iteration 2. Four improvements and a repair are asked for.
    overloaded(),  #                                                  529, asked again
    good(answer("AV1 needs fewer bits", "medium", TO_AV1, "written-001-1")),  #        002-1: measured, the best
    good(answer("just perfect", "medium", CHEAT_ENCODER, "written-001-1") | {"files": {}}),
    good(
        answer("just perfect", "medium", parent="written-001-1")
        | {"files": {"encoder.py": CHEAT_ENCODER, "decoder.py": CHEAT_DECODER}}
    ),  #                                                             002-2: repaired, then found out as a cheat
    good(answer("the start renamed", "medium", NEARLY, "written-001-1")),
    good(answer("the start renamed", "medium", NEARLY, "written-001-1")),  #           002-3: nearly a duplicate, twice
    BROKEN_STREAM,  #                                                 the stream breaks, asked again
    good(answer("smoother", "medium", BROKEN, "written-001-1")),  #   002-4: crashed
    good(answer("honest now", "superfast", edits(("print(", "")), "written-001-5", change_class="repair")),
    good(
        answer("honest now", "superfast", MENDED, "written-001-5", change_class="repair")
    ),  # 002-5: repaired, measured
    # Iteration 3. Ten experiments are done: first the ledger is rewritten. One more fits into the budget.
    good(
        {
            "lines": [
                {"insight": "AV1 beats x264 on this clip.", "experiments": ["written-002-1", "written-001-1"]},
                {"insight": "VVC would be better still.", "experiments": ["written-009-1"]},
            ]
        },
        tool="rewrite_ledger",
    ),
    as_wanted("one preset on", "fast"),  #                            003-1: measured
]

# In the end: what became of each, and how many whole answers it took.
OUTCOME = {
    "written-001-1": ("measured", 1),
    "written-001-2": ("measured", 2),
    "written-001-3": ("rejected", 2),
    "written-001-4": ("duplicate", 2),
    "written-001-5": ("crashed", 1),
    "written-002-1": ("measured", 1),
    "written-002-2": ("cheat", 2),
    "written-002-3": ("duplicate", 2),
    "written-002-4": ("crashed", 1),
    "written-002-5": ("measured", 2),
    "written-003-1": ("measured", 1),
    "written-insights-0010": ("measured", 1),
}
CUT = "written-002-4"  # which had a stream that broke, too
REASONS = {
    "written-001-3": "the model refused: I will not do that.",
    "written-001-4": "the same code and config as written-001-1",
    "written-002-2": "mirrored: demo takes",
    "written-002-3": "nearly the same as written-001-1",
    "written-002-4": "KeyError: 'luma'",
}


def command(pid: int) -> str:
    return _of_process(pid, "cmdline")


def environment(pid: int) -> str:
    return _of_process(pid, "environ")


def _of_process(pid: int, what: str) -> str:
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""  # it has ended


@pytest.fixture
def watched() -> Iterator[dict[str, set[bool]]]:
    """By what a process below this one was: whether a key was in its environment, looked at once a second."""
    signs = {"cpu": "--pool cpu", "gpu": "--pool gpu", "server": "server start"}
    seen: dict[str, set[bool]] = {part: set() for part in signs}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(1.0):
            for pid in below(os.getpid()):
                part = next((part for part, sign in signs.items() if sign in command(pid)), None)
                for member in (pid, *below(pid)) if part else ():
                    text = environment(member)
                    seen[part or ""].add(KEY in text or OTHER_KEY in text)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    yield seen
    done.set()
    watcher.join()


@pytest.mark.slow
@pytest.mark.parametrize("vendor", WIRES)
def test_a_campaign_that_a_model_designs(
    vendor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: dict[str, set[bool]]
) -> None:
    wire, (other,) = WIRES[vendor], WIRES.keys() - {vendor}
    store = Store.open(str(tmp_path / "store"), create=True)
    campaign = Campaign(
        name="written",
        designer=vendor,
        iterations=4,
        candidates=5,
        max_frames=6,
        stop_when_met=False,
        budget=Budget(usd=2, experiments=11),
        store=str(tmp_path / "store"),
    )
    said = io.StringIO()
    with wire.server(SCRIPT) as server:
        monkeypatch.setenv(f"{vendor.upper()}_API_KEY", KEY)
        monkeypatch.setenv(f"{vendor.upper()}_BASE_URL", getattr(server, "base_url", server.url))
        monkeypatch.setenv(f"{other.upper()}_API_KEY", OTHER_KEY)
        with LocalLab(tmp_path / "home") as lab, prefect_api(lab.api_url):
            runs = [run_campaign(campaign, Console(file=said), check=lab.check) for _ in range(2)]
            assert [run.completed for run in runs] == [False, True], [run.message for run in runs] + [said.getvalue()]
            assert server.unused == 0
            write_report(tmp_path / "report.html", store, "written")

    records = store.experiments("written")
    found = {record.experiment_id: record for record in records if record.kind in ("candidate", "insights")}
    cut_answer = wire.cut_answer(server.requests[SCRIPT.index(BROKEN_STREAM)])
    expected = {
        name: (status, pytest.approx(count * wire.answer + (cut_answer if name == CUT else 0)))
        for name, (status, count) in OUTCOME.items()
    }
    assert {name: (record.status, record.usd) for name, record in found.items()} == expected, said.getvalue()
    assert ledger(records).spent.usd == pytest.approx(18 * wire.answer + cut_answer, abs=1e-9)
    for name, reason in REASONS.items():
        assert reason in found[name].reason

    # The best honest candidate is on top, and the cheat, which was perfect, is nowhere.
    board = standings(records, store.points("written"), campaign.targets)
    ranked = {row.rank: row.experiment_id for row in board if row.kind == "candidate" and row.rank is not None}
    assert ranked[min(ranked)] == "written-002-1"  # anchors have ranks too
    assert set(ranked.values()) == {
        name for name, (status, _) in OUTCOME.items() if status == "measured" and "insights" not in name
    }

    # What was asked for: first drafts, then improvements of what was measured, and the repair of the latest failure.
    requests = [request for request in server.requests if "Wanted:" in texts(request)[1]]
    asked: dict[str, tuple[str, list[str]]] = {}
    for request in requests:
        place = re.search(r"^# Request: iteration (\d), candidate (\d)", texts(request)[1], re.M)
        assert place is not None
        asked[f"written-00{place[1]}-{place[2]}"] = wanted(request)
    assert [asked[f"written-001-{number}"] for number in range(1, 6)] == [("draft", [])] * 5
    for number in range(1, 5):
        change_class, (parent,) = asked[f"written-002-{number}"]
        assert (change_class, parent in ("written-001-1", "written-001-2")) == ("improve", True)
    assert asked["written-002-5"] == ("repair", ["written-001-5"])
    assert found["written-002-1"].parents == ("written-001-1",)
    change_class, parents = asked["written-003-1"]
    assert (change_class, len(parents)) in (("crossover", 2), ("improve", 1))  # one where only one is on a front
    assert set(parents) <= {"written-001-1", "written-001-2", "written-002-1", "written-002-5"}
    assert list(found["written-003-1"].parents) == parents

    # Three tries came to nothing that is paid for: 429, 529 and the request under which the loop was killed.
    assert len(server.requests) == len(SCRIPT) == 18 + 1 + 3
    last, *_ = texts(server.requests[-1])
    assert "AV1 beats x264 on this clip. [written-002-1, written-001-1]" in last
    assert "VVC would be better" not in last
    assert "written-009-1, which is not on record" in found["written-insights-0010"].log

    # The keys: only the worker that designs has them, and nothing that anybody wrote down does.
    assert {part: True in had for part, had in watched.items()} == {"cpu": True, "gpu": False, "server": False}
    assert "'LANG'" in found["written-001-5"].log  # it did look
    kept = [path for folder in (lab.home, tmp_path) for path in folder.rglob("*") if path.is_file()]
    assert len(kept) > 50
    for text in (said.getvalue().encode(), json.dumps(server.requests).encode(), *(path.read_bytes() for path in kept)):
        assert KEY.encode() not in text
        assert OTHER_KEY.encode() not in text
