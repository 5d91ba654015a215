"""The store on real files and on a real S3 server: whole records or none, each once, and errors that say what to do."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from running import aws_stand_in
from sample_records import curve, experiment, random_record, scenes

from codec.errors import StoreError
from tasks.campaign import Campaign, CandidateRef
from tasks.store.store import Store

HASH = "ab" * 32


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"), create=True)


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    with aws_stand_in() as url:
        yield url


@pytest.fixture
def s3_uri(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    import s3fs

    bucket = request.node.name.replace("_", "-")
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(bucket)
    return f"s3://{bucket}/some/prefix"


def write(store: Store, name: str, campaign: str = "night", minutes: int = 0) -> None:
    store.write_experiment(
        experiment(name, campaign, minutes=minutes),
        curve(name, "talk", campaign=campaign),
        scenes(name, "talk", campaign),
    )


def test_records_come_back_equal_whatever_they_hold(local: Store) -> None:
    source = random.Random(7)
    records = [random_record(source, number) for number in range(20)]
    for record in reversed(records):
        local.write_experiment(record, (), ())
    assert local.experiments("night") == records
    assert Store.open(local._files.uri).experiments() == records


def test_points_and_scenes_come_back_equal(local: Store) -> None:
    write(local, "night-001-1")
    assert local.points("night") == curve("night-001-1", "talk")
    assert local.scenes("night") == scenes("night-001-1", "talk")
    assert local.points("other") == []


def test_campaigns_are_kept_apart_and_read_together(local: Store) -> None:
    write(local, "a-1", "a")
    write(local, "b-1", "b", minutes=1)
    assert [record.campaign for record in local.experiments()] == ["a", "b"]
    assert [record.experiment_id for record in local.experiments("b")] == ["b-1"]
    assert local.campaigns() == ["a", "b"]


def test_a_record_is_never_changed(local: Store) -> None:
    write(local, "night-001-1")
    with pytest.raises(StoreError, match="on record already"):
        write(local, "night-001-1", minutes=5)
    local.compact("night")
    with pytest.raises(StoreError, match="on record already"):
        write(local, "night-001-1", minutes=5)
    assert len(local.experiments("night")) == 1


def test_points_without_their_experiment_row_are_not_read_and_may_be_written_again(local: Store) -> None:
    root = Path(local._files.uri)
    write(local, "night-001-1")
    (committed,) = root.glob("schema=1/experiments/*/*.parquet")
    row = committed.read_bytes()
    committed.unlink()
    fresh = Store.open(str(root))
    assert fresh.points("night") == []
    assert fresh.scenes("night") == []
    write(fresh, "night-001-1")
    assert committed.read_bytes() == row
    assert len(fresh.points("night")) == 5


def test_points_of_a_lost_attempt_do_not_join_the_next_one(local: Store) -> None:
    write(local, "night-001-1")
    (committed,) = Path(local._files.uri).glob("schema=1/experiments/*/*.parquet")
    committed.unlink()
    store = Store.open(local._files.uri)
    store.write_experiment(experiment("night-001-1", status="infrastructure", reason="lost"), (), ())
    assert store.points("night") == []
    store.write_experiment(experiment("night-001-1", attempt=2), curve("night-001-1", "talk", 0.5), ())
    assert [point.kbps for point in store.points("night")] == [30, 55, 100, 190, 350]


def test_only_a_measured_experiment_may_have_points(local: Store) -> None:
    with pytest.raises(StoreError, match="not measured"):
        local.write_experiment(experiment("night-1", status="crashed"), curve("night-1", "talk"), ())
    with pytest.raises(StoreError, match="no part of"):
        local.write_experiment(experiment("night-1"), curve("night-2", "talk"), ())
    with pytest.raises(StoreError, match="cannot name a file"):
        local.write_experiment(experiment("../evil"), (), ())
    assert local.experiments() == []


def test_two_writers_of_one_attempt_leave_one_record(local: Store) -> None:
    barrier = threading.Barrier(4)
    outcomes: list[str] = []

    def race(minutes: int) -> None:
        store = Store.open(local._files.uri)
        barrier.wait()
        try:
            write(store, "night-001-1", minutes=minutes)
            outcomes.append("written")
        except StoreError:
            outcomes.append("refused")

    threads = [threading.Thread(target=race, args=(minutes,)) for minutes in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused", "refused", "refused", "written"]
    assert len(local.experiments("night")) == 1
    assert len(local.points("night")) == 5


def test_two_processes_write_side_by_side(local: Store) -> None:
    writers = [start_writer(local._files.uri, f"w{number}", 12) for number in range(2)]
    for writer in writers:
        assert writer.wait(60) == 0
    assert len(local.experiments("night")) == 24
    assert len(local.points("night")) == 24 * 5


def start_writer(uri: str, prefix: str, count: int) -> subprocess.Popen[bytes]:
    code = (
        f"import sys; sys.path[:0] = {[str(Path(__file__).parents[up]) for up in (0, 1)]!r}\n"
        "from test_store import write\n"
        "from tasks.store.store import Store\n"
        f"store = Store.open({uri!r})\n"
        f"[write(store, f'{prefix}-{{number:04d}}') for number in range({count})]\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})


def test_a_killed_writer_leaves_no_half_record(local: Store) -> None:
    source = random.Random(11)
    for run in range(3):
        writer = start_writer(local._files.uri, f"k{run}", 10_000)
        deadline = time.monotonic() + 30
        while not any(record.experiment_id.startswith(f"k{run}") for record in local.experiments("night")):
            assert time.monotonic() < deadline, "the writer never began"
            threading.Event().wait(0.02)
        threading.Event().wait(source.random() * 0.2)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    fresh = Store.open(local._files.uri)
    written = fresh.experiments("night")
    assert len(written) >= 3
    for table in (fresh.points("night"), fresh.scenes("night")):
        rows = {record.experiment_id: 0 for record in written}
        for row in table:
            rows[row.experiment_id] += 1
        assert len(set(rows.values())) == 1
    write(fresh, "after")
    assert len(fresh.experiments("night")) == len(written) + 1


def test_compaction_loses_and_doubles_nothing(local: Store) -> None:
    for number in range(8):
        write(local, f"night-{number}", minutes=number)
    before = local.experiments("night"), local.points("night"), local.scenes("night")
    local.compact("night")
    assert len(list(Path(local._files.uri).glob("schema=1/*/*/*.parquet"))) == 3
    write(local, "night-8", minutes=8)
    local.compact("night")
    reader = Store.open(local._files.uri)
    assert reader.experiments("night")[:8] == before[0]
    assert [point for point in reader.points("night") if point.experiment_id != "night-8"] == before[1]
    assert [scene for scene in reader.scenes("night") if scene.experiment_id != "night-8"] == before[2]
    assert len(reader.points("night")) == 9 * 5
    assert len(list(Path(local._files.uri).glob("schema=1/*/*/*.parquet"))) == 3


def test_an_interrupted_compaction_shows_no_row_twice(local: Store, tmp_path: Path) -> None:
    for number in range(3):
        write(local, f"night-{number}")
    small = {path: path.read_bytes() for path in Path(local._files.uri).glob("schema=1/*/*/*.parquet")}
    local.compact("night")
    for path, data in small.items():
        path.write_bytes(data)
    reader = Store.open(local._files.uri)
    assert len(reader.experiments("night")) == 3
    assert len(reader.points("night")) == 15
    assert len(reader.scenes("night")) == 30


def test_a_reader_during_writing_and_compaction_sees_every_committed_row_once(local: Store) -> None:
    for number in range(5):
        write(local, f"first-{number}")
    stop = threading.Event()
    failures: list[BaseException] = []

    def disturb() -> None:
        store = Store.open(local._files.uri)
        number = 0
        try:
            while not stop.is_set():
                write(store, f"more-{number}")
                store.compact("night")
                number += 1
        except BaseException as error:  # noqa: BLE001  (reported by the assertion below)
            failures.append(error)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        seen = 0
        for _ in range(15):
            points = Store.open(local._files.uri).points("night")
            identities = [(point.experiment_id, point.quality) for point in points]
            assert len(identities) == len(set(identities))
            assert len(points) >= max(25, seen)
            seen = len(points)
    finally:
        stop.set()
        thread.join()
    assert failures == []
    assert seen > 25


def test_anyone_reads_the_tables_with_pandas(local: Store) -> None:
    write(local, "night-001-1")
    write(local, "day-001-1", "day")
    frame = pd.read_parquet(Path(local._files.uri) / "schema=1" / "points")
    assert len(frame) == 10
    assert set(frame["campaign"]) == {"night", "day"}
    assert frame.loc[frame["experiment_id"] == "day-001-1", "psnr_y"].max() == 41.6
    experiments = pd.read_parquet(Path(local._files.uri) / "schema=1" / "experiments")
    assert str(experiments["started_at"].dtype) == "datetime64[us, UTC]"
    assert len(frame.merge(experiments, on=["campaign", "experiment_id", "attempt"])) == 10


def test_rows_from_before_operations_were_split_are_read(local: Store) -> None:
    write(local, "night-001-1")
    write(local, "night-001-2")
    (path,) = (Path(local._files.uri) / "schema=1" / "points").glob("*/night-001-1-*.parquet")
    pd.read_parquet(path).drop(columns="tera_ops_by_module").to_parquet(path)
    assert local.points("night") == [*curve("night-001-1", "talk"), *curve("night-001-2", "talk")]
    assert len(pd.read_parquet(path.parent)) == 10


@pytest.mark.parametrize("damage", ["text", "cut", "other table", "other columns"])
def test_a_damaged_or_foreign_file_is_named(local: Store, damage: str) -> None:
    write(local, "night-001-1")
    root = Path(local._files.uri)
    (row,) = root.glob("schema=1/experiments/*/*.parquet")
    target = row.with_name("foreign.parquet")
    if damage == "text":
        target.write_text("no parquet")
    elif damage == "cut":
        target.write_bytes(row.read_bytes()[:-20])
    elif damage == "other table":
        target.write_bytes(next(root.glob("schema=1/points/*/*.parquet")).read_bytes())
    else:
        pd.DataFrame({"a": [1]}).to_parquet(target)
    with pytest.raises(StoreError, match=r"foreign\.parquet") as caught:
        Store.open(str(root)).experiments()
    assert "\n" not in str(caught.value)
    assert "move" in str(caught.value)


def test_blobs_are_checked(local: Store) -> None:
    digest = local.put_blob(b"bitstream")
    assert local.put_blob(b"bitstream") == digest
    assert local.get_blob(digest) == b"bitstream"
    path = Path(local._files.uri) / "blobs" / digest[:2] / digest
    path.write_bytes(b"bitstreaM")
    with pytest.raises(StoreError, match="have changed"):
        local.get_blob(digest)
    with pytest.raises(StoreError, match="no such blob"):
        local.get_blob(HASH)
    with pytest.raises(StoreError, match="not a SHA-256"):
        local.get_blob("../../etc/passwd")


def test_campaign_terms_and_designs(local: Store) -> None:
    assert local.read_campaign("night") is None
    assert local.designs("night") == {}
    terms = Campaign(name="night", iterations=7, clips=("a.mkv", "demo"))
    local.write_campaign(Campaign(name="night"))
    local.write_campaign(terms)
    refs = (CandidateRef(experiment_id="night-001-1", candidate_hash=HASH, iteration=1),)
    local.write_design("night", 1, refs)
    local.write_design("night", 12, ())
    assert local.read_campaign("night") == terms
    assert local.designs("night") == {1: refs, 12: ()}
    assert local.campaigns() == ["night"]
    with pytest.raises(StoreError, match="designed already"):
        local.write_design("night", 1, ())
    (Path(local._files.uri) / "campaigns" / "night" / "campaign.json").write_text("{")
    with pytest.raises(StoreError, match=r"campaign\.json"):
        local.read_campaign("night")


def test_a_store_that_is_not_there_is_empty(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "nothing"))
    assert (store.experiments(), store.points(), store.campaigns()) == ([], [], [])
    assert not (tmp_path / "nothing").exists()


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for uri in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match="a file is in the way") as caught:
            Store.open(str(uri), create=True)
        assert "use a folder" in str(caught.value)
    with pytest.raises(StoreError, match="a file is in the way"):
        Store.open(str(tmp_path / "file")).experiments()


def test_a_folder_that_may_not_be_written_to() -> None:
    with pytest.raises(StoreError, match="use a folder you may write to"):
        Store.open("/proc/evocodec", create=True)
    with pytest.raises(StoreError, match="cannot be kept at"):
        Store.open("gs://bucket/prefix")
    with pytest.raises(StoreError, match="names no bucket"):
        Store.open("s3://")


def test_s3_keeps_what_a_folder_keeps(s3_uri: str) -> None:
    store = Store.open(s3_uri, create=True)
    for number in range(3):
        write(store, f"night-{number}", minutes=number)
    with pytest.raises(StoreError, match="on record already"):
        write(store, "night-1")
    store.compact("night")
    other = Store.open(s3_uri)
    assert [record.experiment_id for record in other.experiments()] == ["night-0", "night-1", "night-2"]
    assert other.points("night")[:5] == curve("night-0", "talk")
    assert other.get_blob(store.put_blob(b"bitstream")) == b"bitstream"
    store.write_campaign(Campaign(name="night"))
    store.write_design("night", 1, ())
    with pytest.raises(StoreError, match="designed already"):
        other.write_design("night", 1, ())
    assert other.read_campaign("night") == Campaign(name="night")
    assert (other.designs("night"), other.campaigns()) == ({1: ()}, ["night"])
    write(other, "night-3", minutes=3)
    assert len(store.experiments("night")) == 4


def test_s3_mistakes_are_explained(s3_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such bucket") as caught:
        Store.open("s3://evocodec-missing/prefix", create=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(StoreError, match="no such bucket"):
        Store.open("s3://evocodec-missing/prefix").experiments()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StoreError, match="no AWS credentials; set AWS_ACCESS_KEY_ID"):
        Store.open(s3_uri, create=True)


def test_the_store_loads_no_torch() -> None:
    code = (
        "import sys; import tasks.store.store, tasks.analyze.summary, tasks.design.search; "
        "print([name for name in ('torch', 'av', 'cv2', 'pandas', 'optuna') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
