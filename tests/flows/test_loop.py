"""A campaign end to end on a real Prefect server, with real encoders and real processes."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast, get_args

import imageio_ffmpeg
import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.events import emit_event
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter
from prefect.events.worker import EventsWorker
from prefect.states import Cancelled, Cancelling, Pending, Running
from running import EVOCODEC, below, clean_environment
from sample_records import experiment

from codec.bitstream import EvcReader
from codec.errors import BadInputError
from codec.frames import Frames
from codec.strategies import by_code, name_of
from codec.strategies.elementary import PACKED, ElementaryStrategy
from codec.video import open_video, write_video
from flows.local import LocalLab, prefect_api
from flows.loop import record_lost, research_loop
from flows.twins import HEARTBEAT, refuse_twin
from tasks.analyze.leaderboard import standings
from tasks.analyze.promotion import champion
from tasks.analyze.summary import artifact_key
from tasks.campaign import Budget, Campaign, CandidateRef
from tasks.design.budget import ledger
from tasks.dispatch.step import RunOutcome, wait
from tasks.execute import forkserver
from tasks.store.records import Split
from tasks.store.store import Store

# The loop as the cpu worker runs it, in a process of its own, which tells at its end what it has imported.
RUN_LOOP = """
import json, sys
from flows.loop import record_lost, research_loop
from tasks.campaign import Campaign
result = research_loop(Campaign.model_validate_json(sys.argv[1]))
print("RESULT", json.dumps({"result": result, "modules": sorted(sys.modules)}))
"""


def run_loop(lab: LocalLab, campaign: Campaign, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", RUN_LOOP, campaign.model_dump_json()],
        env=clean_environment() | {"PREFECT_API_URL": lab.api_url, "PREFECT_HOME": str(lab.home / "prefect")},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def runs_of(lab: LocalLab, campaign: str) -> list[str]:
    """Names of all dispatched runs of a campaign."""
    with prefect_api(lab.api_url), get_client(sync_client=True) as client:
        tags = FlowRunFilterTags(all_=[f"campaign:{campaign}"])
        return [run.name for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=tags))]


@pytest.fixture(scope="module")
def real_campaign(lab: LocalLab, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """2 iterations × 1 candidate on a corner of a real clip, with others to select by and to be sealed."""
    corners = tmp_path_factory.mktemp("corners")
    dev, select, sealed = (corner(clips / name, corners) for name in ("parkjoy.mkv", "mixed360.mkv", "talk512.mkv"))
    return Campaign(
        name="real",
        clips=(dev,),
        select=(select,),
        sealed=(sealed,),
        iterations=2,
        candidates=1,
        max_frames=6,
        store=str(tmp_path_factory.mktemp("store")),
    )


def corner(clip: Path, folder: Path) -> str:
    """The first frames of a clip's upper left corner: what is coded some hundred times here is real, and small."""
    with open_video(clip) as reader:
        frames, video = reader.read(6), replace(reader.format, width=256, height=144)
    part = Frames(frames.y[:, :144, :256], frames.u[:, :72, :128], frames.v[:, :72, :128])
    write_video(folder / clip.name, video, [part])
    return str(folder / clip.name)


@pytest.fixture(scope="module")
def finished(lab: LocalLab, real_campaign: Campaign) -> dict[str, object]:
    process = run_loop(lab, real_campaign)
    assert process.returncode == 0, process.stderr[-3000:]
    line = next(line for line in process.stdout.splitlines() if line.startswith("RESULT"))
    return dict(json.loads(line.removeprefix("RESULT")))


def test_every_candidate_is_measured_and_ranked_against_the_anchors(
    finished: dict[str, object], real_campaign: Campaign
) -> None:
    store = Store.open(real_campaign.store)
    experiments = store.experiments("real")
    assert {record.status for record in experiments} == {"measured"}
    kinds = Counter(record.kind for record in experiments)
    assert (kinds["anchor"], kinds["candidate"], kinds["verification"]) == (2, 2, 2)
    points = store.points("real")
    assert all(point.frames in (5, 6) and point.kbps > 0 and 15 < point.psnr_y < 60 for point in points)
    for point in points:
        if point.experiment_id in ("real-001-1", "real-002-1"):
            assert len(store.get_blob(point.bitstream_hash)) == point.bytes_total
    board = standings(experiments, points, real_campaign.targets, scenes=store.scenes("real"))
    ranked = [row for row in board if row.kind == "candidate"]
    assert all(row.mean_bd_rate is not None and row.rank is not None and row.verified for row in ranked)
    assert len([row for row in ranked if row.champion]) == 1


def test_promotion_and_the_last_word_are_on_clips_of_their_own(
    finished: dict[str, object], real_campaign: Campaign
) -> None:
    store = Store.open(real_campaign.store)
    first = next(record for record in store.experiments("real") if record.experiment_id == "real-001-1")
    assert [(stage.name, stage.passed) for stage in first.stages][-1] == ("select", True)
    best = champion(store.experiments("real"))
    assert best is not None
    sealed = next(record for record in store.experiments("real") if record.experiment_id.endswith(".sealed"))
    assert (sealed.kind, sealed.experiment_id) == ("control", f"{best.experiment_id}.sealed")
    assert sealed.stages[0].note.startswith("against x265-medium: ")
    clips = {split: {point.clip for point in store.points("real") if point.split == split} for split in get_args(Split)}
    assert clips == {
        "dev": set(real_campaign.clips),
        "select": set(real_campaign.select),
        "sealed": set(real_campaign.sealed),
    }


# FFmpeg's name of each raw stream. VVC is 10-bit inside, and rounding it to 8 bits is the container's affair.
RAW_FORMATS = {"x264": "h264", "x265": "hevc", "av1": "obu"}


def test_bytes_and_psnr_agree_with_an_independent_ffmpeg(
    finished: dict[str, object], real_campaign: Campaign, tmp_path: Path
) -> None:
    """The streams are taken out of the container, decoded and compared by ffmpeg alone."""
    store = Store.open(real_campaign.store)
    anchors = {record.experiment_id for record in store.experiments("real") if record.kind == "anchor"}
    checked = 0
    for point in store.points("real"):
        if point.split != "dev":
            continue
        blob = store.get_blob(point.bitstream_hash)
        reader = EvcReader(io.BytesIO(blob))
        entries = list(reader.scenes())
        payloads = [reader.payload(entry) for entry in entries]
        streams = (
            cast(ElementaryStrategy, by_code(entry.strategy)).stream_of(payload, entry.frame_count)
            for entry, payload in zip(entries, payloads, strict=True)
        )
        elementary = b"".join(streams)
        assert point.bytes_total == (len(elementary) if point.experiment_id in anchors else len(blob))
        assert point.kbps == pytest.approx(point.bytes_total * 8 * point.frames_per_second / point.frames / 1000)
        strategy = name_of(entries[0].strategy)
        if strategy not in RAW_FORMATS or len(entries) > 1 or payloads[0][0] not in (0, PACKED):
            continue
        stream = tmp_path / "stream"
        stream.write_bytes(elementary)
        y, u, v = ffmpeg_psnr(stream, RAW_FORMATS[strategy], Path(real_campaign.clips[0]), point.frames)
        assert (point.psnr_y, point.psnr_u, point.psnr_v) == pytest.approx((y, u, v), abs=0.01)
        checked += 1
    assert checked >= 12  # the anchors at least


def ffmpeg_psnr(stream: Path, raw_format: str, original: Path, frames: int) -> list[float]:
    """Y, U and V by ffmpeg's psnr filter over the first frames of the original."""
    # Without these ffmpeg converts colours where the tags of its inputs differ, and pairs frames by their timestamps.
    alike = "setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709,settb=1/25,setpts=N"
    graph = f"[0:v]{alike}[a];[1:v]trim=end_frame={frames},{alike}[b];[a][b]psnr"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-f", raw_format, "-i", stream, "-i", original]
    done = subprocess.run(
        [*command, "-lavfi", graph, "-f", "null", "-"], capture_output=True, text=True, check=True, timeout=60
    )
    found = re.search(r"PSNR y:([\d.]+) u:([\d.]+) v:([\d.]+)", done.stderr)
    assert found, done.stderr
    return [float(value) for value in found.groups()]


def test_the_loop_process_never_loads_torch_or_a_codec(finished: dict[str, object]) -> None:
    modules = set(finished["modules"])  # type: ignore[call-overload]
    assert "prefect" in modules
    assert not {"torch", "av", "cv2", "skimage", "scenedetect"} & modules


def test_artifacts_are_in_the_ui(finished: dict[str, object], lab: LocalLab, real_campaign: Campaign) -> None:
    keys = [artifact_key(kind, "real") for kind in ("leaderboard", "summary", "loop", "experiment")]
    with prefect_api(lab.api_url), get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=keys)))
    types = {artifact.key: artifact.type for artifact in found}
    assert types == dict(zip(keys, ("table", "markdown", "progress", "progress"), strict=True))
    table = next(artifact.data for artifact in found if artifact.type == "table")
    assert "x265-medium" in str(table)


def test_running_again_repeats_nothing(finished: dict[str, object], lab: LocalLab, real_campaign: Campaign) -> None:
    before = Store.open(real_campaign.store).experiments("real")
    runs = runs_of(lab, "real")
    process = run_loop(lab, real_campaign)
    assert process.returncode == 0, process.stderr[-3000:]
    assert Store.open(real_campaign.store).experiments("real") == before
    assert sum("experiment" in name for name in runs_of(lab, "real")) == sum("experiment" in name for name in runs)


@pytest.mark.slow
def test_a_budget_stops_the_loop_and_is_named(
    finished: dict[str, object], lab: LocalLab, real_campaign: Campaign
) -> None:
    """Two experiments are on record: one more iteration is wanted, and the cap, given on resuming, forbids it."""
    before = Store.open(real_campaign.store).experiments("real")
    process = run_loop(lab, real_campaign.model_copy(update={"iterations": 3, "budget": Budget(experiments=2)}))
    assert process.returncode == 0, process.stderr[-3000:]
    assert "the budget of 2 experiments is used up (2 committed)" in process.stdout
    assert Store.open(real_campaign.store).experiments("real") == before
    assert set(Store.open(real_campaign.store).designs("real")) == {1, 2}


def test_other_terms_under_the_same_name_are_refused(
    finished: dict[str, object], lab: LocalLab, real_campaign: Campaign
) -> None:
    process = run_loop(lab, real_campaign.model_copy(update={"max_frames": 5}))
    assert process.returncode != 0
    assert "was begun with other max_frames" in process.stderr


def beats(client: SyncPrefectClient, run: FlowRun) -> int:
    """How many heartbeats of a run the server knows."""
    resource = EventResourceFilter(id=[f"prefect.flow-run.{run.id}"])
    return client.read_events(EventFilter(event=EventNameFilter(name=[HEARTBEAT]), resource=resource), limit=1).total


def test_a_second_loop_on_a_running_campaign_gives_way(lab: LocalLab, tmp_path: Path) -> None:
    campaign = Campaign(name="twin", store=str(tmp_path / "store"), max_frames=2, iterations=1, candidates=1)
    with prefect_api(lab.api_url), get_client(sync_client=True) as client:
        first = run_deployment(
            "research-loop/evocodec",
            parameters={"campaign": campaign.model_dump(mode="json")},
            timeout=0,
            as_subflow=False,
        )
        assert wait_until(lambda: client.read_flow_run(first.id).state.is_running())
        assert wait_until(lambda: beats(client, first) > 0)
        second = run_loop(lab, campaign)
        client.set_flow_run_state(first.id, Cancelling())
        assert wait_until(lambda: client.read_flow_run(first.id).state.is_final())
    assert second.returncode != 0
    assert "campaign 'twin' is running already" in second.stderr


def test_a_loop_whose_heartbeats_ended_stands_in_nobodys_way(lab: LocalLab, tmp_path: Path) -> None:
    """Three runs that the server takes for running; the process of none is there."""
    with prefect_api(lab.api_url), get_client(sync_client=True) as client:

        def left_running(name: str) -> FlowRun:
            run = client.create_flow_run(research_loop, parameters={"campaign": {"name": name}}, state=Pending())
            client.set_flow_run_state(run.id, Running())
            return run

        def beat(run: FlowRun, seconds_ago: float) -> None:
            occurred = datetime.now(UTC) - timedelta(seconds=seconds_ago)
            resource = {"prefect.resource.id": f"prefect.flow-run.{run.id}"}
            assert emit_event(HEARTBEAT, resource, occurred=occurred)

        @flow
        def another_of(campaign: str) -> None:
            refuse_twin("research-loop", campaign)

        dead, alive, unknown = (left_running(name) for name in ("dead", "alive", "unknown"))
        for seconds_ago in (930, 900):
            beat(dead, seconds_ago)
        for seconds_ago in (930, 5):
            beat(alive, seconds_ago)
        EventsWorker.drain_all()
        assert wait_until(lambda: beats(client, dead) == beats(client, alive) == 2)
        another_of("dead")
        state = client.read_flow_run(dead.id).state
        for run in (alive, unknown):
            name = run.parameters["campaign"]["name"]
            with pytest.raises(BadInputError, match=f"campaign '{name}' is running already"):
                another_of(name)
            assert client.read_flow_run(run.id).state.is_running()
            client.set_flow_run_state(run.id, Cancelled(), force=True)
    assert state.is_crashed()
    assert state.message.startswith("its process is gone: no heartbeat for 9")


def test_a_late_batch_is_cancelled_and_recorded_as_infrastructure(lab: LocalLab, tmp_path: Path) -> None:
    with prefect_api(lab.api_url):
        campaign = Campaign(name="late", store=str(tmp_path / "store"))
        run = run_deployment(
            "anchors/evocodec",
            parameters={"campaign": campaign.model_dump(mode="json")},
            timeout=0,
            as_subflow=False,
        )
        outcome = wait.fn(run.id, 6.0, 60.0)
        assert outcome.late
        assert not outcome.completed
        assert "not finished after 6 s" in outcome.message
        assert outcome.seconds == 6.0
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(run.id).state
    assert state is not None
    assert state.is_cancelled()
    assert not candidates_below(os.getpid())


def test_the_time_of_lost_attempts_is_on_the_bill(lab: LocalLab, tmp_path: Path) -> None:
    """A run of three candidates ended after 70 s, when one of them was on record with 10 s."""
    store, campaign = Store.open(str(tmp_path), create=True), Campaign(name="lost", store=str(tmp_path))
    batch = tuple(CandidateRef(experiment_id=f"lost-001-{number}", candidate_hash="0" * 64) for number in (1, 2, 3))
    store.write_experiment(experiment("lost-001-1", "lost", gpu_seconds=10.0), (), ())

    @flow
    def loses() -> None:
        record_lost(store, campaign, batch, RunOutcome(False, False, "Crashed", "gone", seconds=70.0), "control")

    with prefect_api(lab.api_url):
        loses()
    bill = {record.experiment_id: record.gpu_seconds for record in store.experiments("lost")}
    assert bill == {"lost-001-1": 10.0, "lost-001-2": 30.0, "lost-001-3": 30.0}
    assert ledger(store.experiments("lost")).spent.gpu_seconds == 70.0


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def command_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def candidates_below(pid: int) -> list[int]:
    """The processes of candidates among those below `pid`."""
    return [child for child in below(pid) if command_name(child) == forkserver.PROCESS_NAME]


def wait_until(condition: object, seconds: float = 60) -> bool:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False


def start_campaign(folder: Path, iterations: int) -> subprocess.Popen[str]:
    """`evocodec run` on the demo clip with a lab of its own, as a user starts it."""
    return subprocess.Popen(
        [EVOCODEC, "run", "--iterations", str(iterations), "--candidates", "1", "--max-frames", "12"],
        cwd=folder,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow  # a lab of its own, and a campaign to its end
def test_a_killed_worker_costs_nothing(tmp_path: Path) -> None:
    with start_campaign(tmp_path, iterations=1) as process:
        assert wait_until(lambda: candidates_below(process.pid), 120)
        [worker] = [pid for pid in below(process.pid) if "worker start --pool gpu" in command_of(pid)]
        os.kill(worker, signal.SIGKILL)
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "the gpu worker died" in out
    assert (tmp_path / ".evocodec" / "report-demo.html").stat().st_size > 10_000
    records = Store.open(str(tmp_path / ".evocodec" / "store")).experiments("demo")
    assert [record.status for record in records].count("measured") == 4  # two anchors, one candidate, its verification


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    store_folder = tmp_path / ".evocodec" / "store"
    with start_campaign(tmp_path, iterations=2) as process:
        assert wait_until(lambda: candidates_below(process.pid), 120)
        started = below(process.pid)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1] == "evocodec: interrupted"
    assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), 10)
    assert Store.open(str(store_folder)).experiments("demo") == []
    assert not [path for path in store_folder.rglob("*") if ".tmp" in path.name or ".partial" in path.name]
