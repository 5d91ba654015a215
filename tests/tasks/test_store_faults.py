"""The store on an S3 that throttles, breaks and cuts connections in mid-write: nothing lost, nothing twice."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

import pytest
from running import aws_stand_in
from sample_records import curve, experiment, scenes

from codec.errors import StoreError
from tasks.campaign import CandidateRef
from tasks.store.store import Store

# What happens to one request: before it reaches S3 (slow, broken, cut), or to the answer of one that S3 has obeyed.
Fault = Literal["slow", "broken", "cut", "answer lost"]
ERRORS = {"slow": (503, "SlowDown", "Please reduce your request rate."), "broken": (500, "InternalError", "Try again.")}
EXPERIMENT = "/schema=1/experiments/"


class Proxy:
    """Passes requests on to S3, but for the faults of the script: the next matching request meets the next fault."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.url = ""
        self.script: list[tuple[Callable[[str, str], bool], Fault]] = []
        self.seen: list[tuple[str, str, str]] = []
        self._lock = threading.Lock()

    def fault(self, method: str, part: str, *faults: Fault) -> None:
        self.script += [(lambda m, p: m == method and part in p.replace("%3D", "="), fault) for fault in faults]

    def next_fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for number, (matches, fault) in enumerate(self.script):
                if matches(method, path):
                    del self.script[number]
                    self.seen.append((method, path, fault))
                    return fault
        return None


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with aws_stand_in() as url:
        yield url.removeprefix("http://")


@pytest.fixture(scope="module")
def proxy(upstream: str) -> Iterator[Proxy]:
    proxy = Proxy(upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = proxy.next_fault(self.command, self.path)
            if fault in ("slow", "broken"):
                status, code, text = ERRORS[fault]
                error = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{text}</Message></Error>".encode()
                self._answer(status, {"Content-Type": "application/xml"}, error)
                return
            if fault == "cut":
                self.close_connection = True
                self.connection.close()
                return
            passed_on = http.client.HTTPConnection(proxy.upstream, timeout=30)
            passed_on.request(self.command, self.path, body, dict(self.headers.items()))
            response = passed_on.getresponse()
            content = response.read()
            if fault == "answer lost":
                self.close_connection = True
                self.connection.close()
                return
            hidden = ("transfer-encoding", "connection", "content-length", "server", "date")
            headers = {name: value for name, value in response.getheaders() if name.lower() not in hidden}
            self._answer(response.status, headers, content, response.getheader("Content-Length"))

        def _answer(self, status: int, headers: dict[str, str], content: bytes, length: str | None = None) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            head = self.command == "HEAD"
            self.send_header("Content-Length", length if head and length else str(len(content)))
            self.end_headers()
            if not head:
                self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield proxy
    server.shutdown()


@pytest.fixture
def store(proxy: Proxy, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Store:
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    import s3fs

    proxy.script.clear()
    proxy.seen.clear()
    bucket = f"faults-{sum(request.node.name.encode())}"
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(bucket)
    return Store.open(f"s3://{bucket}/store", create=True)


def write(store: Store, name: str = "night-001-1", attempt: int = 1) -> None:
    store.write_experiment(experiment(name, attempt=attempt), curve(name, "talk"), scenes(name, "talk", "night"))


@pytest.mark.parametrize("fault", ["slow", "broken", "cut", "answer lost"])
def test_a_fault_in_mid_write_leaves_one_whole_record(store: Store, proxy: Proxy, fault: Fault) -> None:
    proxy.fault("PUT", "/schema=1/points/", fault)
    proxy.fault("PUT", EXPERIMENT, fault)
    write(store)
    assert not proxy.script  # both were met
    assert [record.experiment_id for record in store.experiments("night")] == ["night-001-1"]
    assert store.points("night") == curve("night-001-1", "talk")


def test_a_design_whose_answer_got_lost_is_ours_and_another_is_refused(store: Store, proxy: Proxy) -> None:
    design = (CandidateRef(experiment_id="night-001-1", candidate_hash="0" * 64),)
    proxy.fault("PUT", "/designs/", "answer lost")
    store.write_design("night", 1, design)
    assert not proxy.script
    with pytest.raises(StoreError, match="designed already"):
        store.write_design("night", 1, design)


def test_a_listing_and_a_read_that_are_throttled_or_cut_are_repeated(store: Store, proxy: Proxy) -> None:
    write(store)
    proxy.fault("GET", "list-type=2", "slow", "broken", "cut")
    proxy.fault("GET", EXPERIMENT, "slow", "cut")
    fresh = Store.open(store._files.uri)
    assert [record.experiment_id for record in fresh.experiments("night")] == ["night-001-1"]
    assert not proxy.script


@pytest.mark.slow  # until the client gives up
def test_throttling_without_end_is_an_error_that_names_the_store(
    store: Store, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was not committed is not read, and is written whole by the next try."""
    monkeypatch.setattr(store._files._fs, "retries", 1)
    proxy.fault("PUT", EXPERIMENT, *["broken"] * 6)
    with pytest.raises(StoreError, match="s3://faults-"):
        write(store)
    proxy.script.clear()
    assert store.experiments("night") == []
    assert store.points("night") == []
    write(store)
    assert store.points("night") == curve("night-001-1", "talk")
