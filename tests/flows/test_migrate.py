"""Moving in: an old table and an old queue on a server that speaks AWS's API, through the commands a user types."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import boto3
import pandas as pd
import pytest
from older_code import V1, V1_ENCODER, V2
from running import Evocodec, aws_stand_in, clean_environment
from sample_records import anchor, curve, experiment, verified

from codec.errors import BadInputError
from flows.commands.migrate import import_code, import_dynamodb, import_sqs, open_importer
from flows.local import LocalLab
from tasks.analyze.leaderboard import standings
from tasks.analyze.report import write_report
from tasks.campaign import Campaign
from tasks.candidate import Candidate
from tasks.design.budget import ledger
from tasks.design.seeding import seed
from tasks.dispatch.pending import pending
from tasks.migrate.adapter import Knob, OlderCode, adapt
from tasks.migrate.importing import Importer
from tasks.migrate.sources import Queue, Table
from tasks.store.store import Store

TABLE = "ai-video-codec-experiments"
REGION = "us-east-1"
RUN_LOOP = """
import sys
from flows.loop import research_loop
from tasks.campaign import Campaign
research_loop(Campaign.model_validate_json(sys.argv[1]))
"""
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": REGION}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with aws_stand_in() as url:
        yield url


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (KEYS | {"AWS_EC2_METADATA_DISABLED": "true"}).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def table(endpoint: str, request: pytest.FixtureRequest) -> Any:
    """The old table, empty."""
    made = boto3.resource("dynamodb", endpoint_url=endpoint, region_name=REGION).create_table(
        TableName=f"{TABLE}-{request.node.name}"[:200],
        KeySchema=[
            {"AttributeName": "experiment_id", "KeyType": "HASH"},
            {"AttributeName": "timestamp", "KeyType": "RANGE"},
        ],
        AttributeDefinitions=[
            {"AttributeName": "experiment_id", "AttributeType": "S"},
            {"AttributeName": "timestamp", "AttributeType": "N"},
        ],
        BillingMode="PAY_PER_REQUEST",
    )
    yield made
    made.delete()


@pytest.fixture
def queue(endpoint: str, request: pytest.FixtureRequest) -> tuple[Any, str]:
    client = boto3.client("sqs", endpoint_url=endpoint, region_name=REGION)
    return client, client.create_queue(QueueName=request.node.name[:80])["QueueUrl"]


def importer(folder: Path, origin: str = "dynamodb://old", campaign: str = "imported") -> Importer:
    return open_importer(str(folder / "store"), campaign, origin, frames=None, knob=None)


def row(number: int, **fields: Any) -> dict[str, Any]:
    return {"experiment_id": f"exp {number}/a", "timestamp": Decimal(1_760_000_000 + number), **fields}


RESULTS = {"bitrate_mbps": Decimal("0.92"), "psnr_db": Decimal("36.1"), "frames": Decimal(120)}
GOOD = [
    row(1, gpu_status="completed", gpu_results=RESULTS, gpu_worker_id="i-0abc", gpu_completed_at="2025-10-09T09:00:00"),
    row(
        2, gpu_status="completed", gpu_results=json.dumps({"bitrate_mbps": 0.9}), code=V2, config={"step": Decimal(12)}
    ),
    row(3, gpu_status="failed", gpu_results={"error": "CUDA out of memory"}, encoder_code=V2, decoder_code=V2),
    row(4, gpu_status="processing", config='{"step": 9}', code=json.dumps({"encoder": V2, "decoder": V2})),
    row(5, status="completed", results="all went well", tags={"a", "b"}, blob=b"\x00\x01"),  # broken: see BAD
    row(6, code=V1_ENCODER, note=None),  # v1: none of the newer fields
]
BAD = {
    "exp 5/a": "results is neither a map",
    "exp 7/a": "gpu_status 'queued' is none of",
    "exp 8/a": "gpu_results is damaged JSON",
    "exp 9/a": "completed and there are no gpu_results",
    "exp 10/a": "encoder_code is not text",
}
BROKEN = [
    row(7, gpu_status="queued"),
    row(8, gpu_status="completed", gpu_results='{"psnr": '),
    row(9, gpu_status="completed"),
    row(10, encoder_code=Decimal(7), decoder_code=V2),
]


def test_every_row_is_taken_over_or_reported(
    table: Any, endpoint: str, tmp_path: Path, evocodec: Evocodec, capsys: pytest.CaptureFixture[str]
) -> None:
    for item in GOOD + BROKEN:
        table.put_item(Item=item)
    options = ("--endpoint-url", endpoint, "--store", tmp_path / "store", "--candidates", tmp_path / "old")
    first = evocodec("import-dynamodb", table.name, *options, **KEYS)
    assert first.returncode == 1, first.stderr
    assert first.stdout == (
        "10 rows: 5 imported, 0 on record already, 5 not read; code: 3 can be measured, 1 refused, 1 none\n"
    )
    unread = {line.split(": ")[1].split(" at ")[0]: line for line in first.stderr.splitlines() if "not read" in line}
    assert set(unread) == set(BAD)
    for name, why in BAD.items():
        assert why in unread[name]
    refused = [line for line in first.stderr.splitlines() if line.startswith("no candidate")]
    assert len(refused) == 1
    assert "add decompress_video_frame" in refused[0]

    store = Store.open(str(tmp_path / "store"))
    records = {record.older_id: record for record in store.imported("imported")}
    assert json.loads(records["exp 1/a"].claimed_json) == {"bitrate_mbps": 0.92, "psnr_db": 36.1, "frames": 120}
    assert records["exp 3/a"].older_status == "failed"
    assert records["exp 6/a"].older_status == ""
    assert json.loads(store.get_blob(records["exp 1/a"].row_hash))["gpu_worker_id"] == "i-0abc"
    kept = Candidate.from_json_bytes(store.get_blob(records["exp 2/a"].candidate_hash))
    assert kept.config["older"] == {"step": 12}
    assert Candidate.load(tmp_path / "old" / records["exp 2/a"].experiment_id) == kept

    again = importer(tmp_path, f"dynamodb://{table.name}")
    assert not import_dynamodb(again, Table(table.name, region=REGION, endpoint_url=endpoint), None)
    assert "0 imported, 5 on record already, 5 not read" in capsys.readouterr().out
    assert len(Store.open(str(tmp_path / "store")).imported()) == 5
    shown = evocodec("results", "--store", tmp_path / "store")
    assert "5 experiments of the older generation, none of them measured here" in shown.stdout
    assert len(pd.read_parquet(tmp_path / "store" / "schema=1" / "imported")) == 5


def test_all_pages_of_a_scan_are_read(table: Any, endpoint: str, tmp_path: Path) -> None:
    """A page ends at a megabyte."""
    with table.batch_writer() as batch:
        for number in range(12):
            batch.put_item(Item=row(number, gpu_status="failed", log="x" * 300_000))
    client = boto3.client("dynamodb", endpoint_url=endpoint, region_name=REGION)
    assert "LastEvaluatedKey" in client.scan(TableName=table.name)
    old = Table(table.name, region=REGION, endpoint_url=endpoint)
    assert import_dynamodb(importer(tmp_path), old, None, batch=5)
    assert len(importer(tmp_path).store.imported("imported")) == 12


def test_a_row_that_has_changed_is_kept_beside_its_earlier_version(table: Any, endpoint: str, tmp_path: Path) -> None:
    old = Table(table.name, region=REGION, endpoint_url=endpoint)
    table.put_item(Item=row(1, gpu_status="processing"))
    assert import_dynamodb(importer(tmp_path), old, None)
    table.put_item(Item=row(1, gpu_status="completed", gpu_results=RESULTS))
    for _ in range(2):
        assert import_dynamodb(importer(tmp_path), old, None)
    versions = importer(tmp_path).store.imported("imported")
    assert [(record.attempt, record.older_status) for record in versions] == [(1, "processing"), (2, "completed")]
    assert len({record.experiment_id for record in versions}) == 1


def test_a_campaign_is_the_same_with_imports_in_it(table: Any, endpoint: str, tmp_path: Path) -> None:
    """Leaderboard, budget, compaction and report of a campaign do not see what another system measured."""
    store = Store.open(str(tmp_path / "store"), create=True)
    store.write_campaign(Campaign(name="night"))
    for record in (anchor("x265-medium", "x265", "medium"), *verified([experiment("night-001-1")])):
        points = curve(record.experiment_id, "talk", 0.8) if record.kind != "verification" else []
        store.write_experiment(record, points, ())
    before = _seen(store)
    table.put_item(Item=row(1, gpu_status="completed", gpu_results={"bitrate_mbps": Decimal("0.001")}, code=V2))
    assert import_dynamodb(
        importer(tmp_path, campaign="night"), Table(table.name, region=REGION, endpoint_url=endpoint), None
    )
    store = Store.open(str(tmp_path / "store"))
    assert len(store.imported("night")) == 1
    assert _seen(store) == before
    store.compact("night")
    assert _seen(Store.open(str(tmp_path / "store"))) == before
    assert len(store.imported("night")) == 1
    write_report(tmp_path / "report.html", store, "night")
    assert "exp 1/a" not in (tmp_path / "report.html").read_text()


def _seen(store: Store) -> tuple[object, ...]:
    records, points = store.experiments("night"), store.points("night")
    return standings(records, points, Campaign().targets), ledger(records), store.campaigns()


def waiting(url: str, endpoint: str) -> Queue:
    """The queue; this server's answers are whole without waiting."""
    old = Queue.open(url, region=REGION, endpoint_url=endpoint)
    old.wait_seconds = 0
    return old


def job(name: str, **fields: Any) -> str:
    said = {"experiment_id": name, "encoding_agent_code": V2, "decoding_agent_code": V2, "config": {"step": 20}}
    return json.dumps({**said, "video_s3_key": "SOURCE_HD_RAW.mp4", **fields})


def test_a_job_is_deleted_when_it_is_kept_and_only_then(
    queue: tuple[Any, str], endpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client, url = queue
    bad = (
        "{not json",
        "[1]",
        job("", code=V2),
        json.dumps({"experiment_id": "e"}),
        job("e", encoding_agent_code="x ="),
    )
    good = [job(f"exp-{number}") for number in range(13)] + [job("v1", encoding_agent_code=V1, decoding_agent_code=V1)]
    for body in (*good[:8], *bad, *good[8:]):
        client.send_message(QueueUrl=url, MessageBody=body)
    old = waiting(url, endpoint)
    assert not import_sqs(importer(tmp_path, "sqs://old"), old, tmp_path / "jobs")
    said = capsys.readouterr()
    assert "19 jobs: 14 imported, 0 on record already, 5 not read; code: 14 can be measured" in said.out
    for why in ("not JSON", "not a JSON object", "no experiment_id", "it has no code", "the encoder, line 1"):
        assert why in said.err
    # What stayed is at once to be had again, and is what could not be read.
    left = client.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=0)["Messages"]
    assert sorted(message["Body"] for message in left) == sorted(bad)
    assert len(list((tmp_path / "jobs").iterdir())) == 14
    records = importer(tmp_path).store.imported("imported")
    assert len(records) == 14
    assert {record.clip for record in records} == {"SOURCE_HD_RAW.mp4"}


def test_a_job_that_comes_twice_is_one_candidate(queue: tuple[Any, str], endpoint: str, tmp_path: Path) -> None:
    client, url = queue
    for _ in range(2):
        client.send_message(QueueUrl=url, MessageBody=job("again"))
        assert import_sqs(importer(tmp_path), waiting(url, endpoint), None)
    client.send_message(QueueUrl=url, MessageBody=job("again", config={"step": 21}))
    assert import_sqs(importer(tmp_path), waiting(url, endpoint), None)
    assert len(importer(tmp_path).store.imported("imported")) == 2


def test_no_job_is_deleted_where_the_store_cannot_be_written(
    queue: tuple[Any, str], endpoint: str, tmp_path: Path
) -> None:
    client, url = queue
    client.send_message(QueueUrl=url, MessageBody=job("precious"))
    into = importer(tmp_path)
    (tmp_path / "store" / "blobs").write_text("a file in the way")
    with pytest.raises(Exception, match="in the way"):
        import_sqs(into, waiting(url, endpoint), None)
    assert client.receive_message(QueueUrl=url)["Messages"][0]["Body"] == job("precious")


def test_what_is_not_there_is_one_line_with_exit_code_2(
    endpoint: str, tmp_path: Path, evocodec: Evocodec, queue: tuple[Any, str]
) -> None:
    wrong = evocodec("import-dynamodb", "nowhere", "--endpoint-url", endpoint, **KEYS)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.count("\n") == 1
    assert "table nowhere: there is none of that name" in wrong.stderr
    with pytest.raises(BadInputError, match="there is none of that name"):
        import_sqs(importer(tmp_path), waiting(f"{queue[1]}-other", endpoint), None)


def test_errors_of_credentials_and_region_say_what_to_set(
    endpoint: str, evocodec: Evocodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = {
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    result = evocodec("import-dynamodb", TABLE, "--endpoint-url", endpoint, "--region", REGION, **nobody)
    assert result.returncode == 2
    assert "set AWS_ACCESS_KEY_ID" in result.stderr
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(BadInputError, match="give --region"):
        Table(TABLE, region=None, endpoint_url=endpoint)


def test_code_becomes_a_folder_that_can_be_tried(tmp_path: Path, evocodec: Evocodec) -> None:
    (tmp_path / "agents.py").write_text(V2)
    (tmp_path / "config.json").write_text('{"step": 20}')
    made = evocodec("import-code", "agents.py", "moved", "--config", "config.json", "--knob", "step=40:6")
    assert made.returncode == 0, made.stderr
    candidate = Candidate.load(tmp_path / "moved")
    assert candidate.config["knob"] == {"name": "step", "low": 40, "high": 6}
    with pytest.raises(BadInputError, match="moved is not empty: name a new folder"):
        import_code(tmp_path / "agents.py", tmp_path / "moved", None, frames=None, knob=None)
    (tmp_path / "v1.py").write_text(V1_ENCODER)
    refused = evocodec("import-code", "v1.py", "other")
    assert refused.returncode == 2
    assert "add decompress_video_frame(data, frame_index, config)" in refused.stderr
    assert not (tmp_path / "other").exists()


def test_seeds_are_the_next_iteration_of_a_campaign(tmp_path: Path, evocodec: Evocodec) -> None:
    adapt(OlderCode(V2, V2), {}, "old/one", knob=Knob("step", 40, 6)).write(tmp_path / "one")
    adapt(OlderCode(V1, V1), {"jpeg_quality": 50}, "two").write(tmp_path / "two")
    result = evocodec("seed", "one", "two", "--campaign", "moved", "--store", "store")
    assert (result.returncode, result.stdout) == (0, "one: moved-001-1\ntwo: moved-001-2\n"), result.stderr
    store = Store.open(str(tmp_path / "store"))
    seed(store, "moved", [Candidate.load(tmp_path / "two")])
    designs = store.designs("moved")
    assert [ref.experiment_id for ref in pending(designs[1], [])] == ["moved-001-1", "moved-001-2"]
    assert [ref.experiment_id for ref in designs[2]] == ["moved-002-1"]
    brought = Candidate.from_json_bytes(store.get_blob(designs[1][0].candidate_hash))
    assert brought.code_hash == Candidate.load(tmp_path / "one").code_hash
    assert (brought.lineage.id, brought.lineage.hypothesis) == ("moved-001-1", "old/one, brought by hand")
    broken = Candidate.load(tmp_path / "one").model_copy(update={"files": {"encoder.py": "", "decoder.py": ""}})
    with pytest.raises(BadInputError, match="does not define"):
        seed(store, "moved", [broken])
    with pytest.raises(BadInputError, match="takes 1 to 8"):
        seed(store, "moved", [])
    assert set(store.designs("moved")) == {1, 2}


@pytest.mark.slow
def test_a_campaign_measures_old_code_that_was_seeded(lab: LocalLab, clips: Path, tmp_path: Path) -> None:
    store_folder = str(tmp_path / "store")
    store = Store.open(store_folder, create=True)
    seed(store, "moved", [adapt(OlderCode(V2, V2), {}, "old", knob=Knob("step", 40, 6))])
    campaign = Campaign(
        name="moved",
        clips=(str(clips / "talk512.mkv"),),
        iterations=1,
        candidates=1,
        max_frames=4,
        early_stop_ratio=1e3,
        store=store_folder,
    )
    process = subprocess.run(
        [sys.executable, "-c", RUN_LOOP, campaign.model_dump_json()],
        env=clean_environment() | {"PREFECT_API_URL": lab.api_url, "PREFECT_HOME": str(lab.home / "prefect")},
        capture_output=True,
        text=True,
        timeout=160,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    (record,) = [row for row in store.experiments("moved") if row.experiment_id == "moved-001-1"]
    assert (record.status, record.designer) == ("measured", "imported"), record.reason
    (standing,) = [
        row
        for row in standings(store.experiments("moved"), store.points("moved"), campaign.targets)
        if row.experiment_id == "moved-001-1"
    ]
    assert standing.verified
