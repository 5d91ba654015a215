"""The designers that ask a model, through the vendors' real clients, against scripted stand-ins of their APIs."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from messages_api import MessagesServer
from responses_api import ResponsesServer
from running import Evocodec, clean_environment
from sample_records import anchor, curve, experiment
from scripted_model import (
    Reply,
    ScriptedServer,
    broken,
    cut,
    denied,
    fails_inside,
    good,
    limited,
    malformed,
    no_breakpoints,
    no_forced_tool,
    no_money,
    overloaded,
    refusal,
    slow,
    talk,
    too_long,
)

from codec.errors import BadInputError, EvocodecError
from tasks.campaign import Campaign, CandidateRef, Limits, ModelPrice
from tasks.candidate import Candidate
from tasks.design.asking import Patience
from tasks.design.brief import Brief, Load, archive_brief
from tasks.design.budget import ledger as budget_ledger
from tasks.design.designer import Past, Rejected, make_designer
from tasks.design.model_designer import VENDORS, ModelDesigner
from tasks.design.population import starting_population
from tasks.design.prices import Usage
from tasks.design.rejected import record_rejected
from tasks.execute.clips import tiny_clip
from tasks.execute.harness import evaluate
from tasks.execute.isolation import ProcessIsolation
from tasks.store.store import Store

KEY = "sk-a-secret-that-must-stay-one"
MODELS = {"anthropic": "claude-opus-5", "openai": "gpt-6.1-sol"}
MODEL = MODELS["anthropic"]
HASTY = Patience(tries=4, first_wait=0.01, longest_wait=0.05, silence=5, answer=10)
ENCODER = "def compress_video_tensor(frames, config, device):\n    return {'compressed_data': bytes([%d])}\n"
DECODER = "def decompress_video_tensor(compressed_data, config, device):\n    return {'reconstructed_frames': None}\n"

Play = Callable[..., ModelDesigner]
Serve = Callable[[Sequence[Reply]], ScriptedServer]


def submission(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A valid answer; different numbers are different ideas."""
    return {
        "hypothesis": f"idea {number}",
        "change_class": "draft",
        "parent_id": None,
        "predicted": {"bd_rate_percent": -5.5, "tera_ops_per_frame": 0.25},
        "files": {"encoder.py": ENCODER % number, "decoder.py": DECODER},
        "config": {"depth": number},
    } | changes


def price(model: str, usage: Usage, /) -> float:
    return usage.output_tokens / 1000 + usage.prompt_tokens / 10_000


COUNTED = {"input_tokens": 700, "cache_write_tokens": 4000, "cache_read_tokens": 9000, "output_tokens": 1500}
ONE_ANSWER = price(MODEL, Usage.model_validate(COUNTED))


def improve_the_first(past: Past, number: int, load: Load) -> Brief:
    return Brief("improve", ("night-001-1",), ("night-001-2",), ("night-001-3",), "the best so far")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"), create=True)


@pytest.fixture
def past(store: Store) -> Past:
    """A campaign with its anchors and two candidates measured, and one that crashed."""
    campaign = Campaign(
        name="night", designer="anthropic", model=MODEL, candidates=2, iterations=4, clips=("/home/me/talk.mkv",)
    )
    store.write_campaign(campaign)
    parent = Candidate.model_validate(
        {"files": submission(90)["files"], "config": {"depth": 90}, "lineage": {"id": "night-001-1"}}
    )
    kept = {"candidate_hash": store.put_blob(parent.to_json_bytes()), "ast_hash": parent.ast_hash}
    rows = [
        (anchor("x265-medium", "x265", "medium"), 1.0),
        (anchor("svtav1-p6", "av1", "6"), 0.85),
        (experiment("night-001-1", iteration=1, noise_percent={"/home/me/talk.mkv": 0.5}, **kept), 0.8),
        (experiment("night-001-2", iteration=1, parents=("night-001-1",), predicted_bd_rate_percent=-9.0), 0.9),
    ]
    for record, factor in rows:
        store.write_experiment(record, curve(record.experiment_id, "/home/me/talk.mkv", factor), [])
    crashed = experiment("night-001-3", iteration=1, status="crashed", reason="IndexError in encoder.py", log="```boom")
    store.write_experiment(crashed, [], [])
    return Past.of(campaign, 2, store.experiments("night"), store.points("night"))


@pytest.fixture
def play(store: Store, past: Past, monkeypatch: pytest.MonkeyPatch) -> Play:
    """A designer as the environment makes it, talking to that server."""

    def make(server: ScriptedServer, patience: Patience = HASTY) -> ModelDesigner:
        name = "openai" if isinstance(server, ResponsesServer) else "anthropic"
        for setting, value in settings(server).items():
            monkeypatch.setenv(setting, value)
        campaign = past.campaign.model_copy(update={"designer": name, "model": MODELS[name]})
        made = ModelDesigner.from_environment(campaign, store, left={}, patience=patience)
        return replace(made, price=price, choose=improve_the_first)

    return make


@pytest.fixture(params=[MessagesServer, ResponsesServer], ids=["anthropic", "openai"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """The stand-in of one vendor: what it has to do with the wire is the same for each."""
    made: Serve = request.param
    return made


def settings(server: ScriptedServer) -> dict[str, str]:
    """What tells the client of that API where it is, and the key."""
    if isinstance(server, ResponsesServer):
        return {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.base_url}
    return {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": server.url}


def candidates(proposals: Any) -> list[Candidate]:
    assert all(isinstance(proposal, Candidate) for proposal in proposals), proposals
    return list(proposals)


def rejected(proposals: Any) -> Rejected:
    (proposal,) = proposals
    assert isinstance(proposal, Rejected)
    return proposal


def answers(store: Store, *keys: str) -> list[dict[str, Any]]:
    return [json.loads(store.read_answer("night", key) or b"null") for key in keys]


def test_an_answer_becomes_a_candidate_with_its_prediction_and_its_price(serve: Serve, past: Past, play: Play) -> None:
    with serve([good(submission(1, change_class="improve", parent_id="night-001-1"))]) as server:
        designer = play(server)
        (candidate,) = candidates(designer.propose(past, 1))
    lineage = candidate.lineage
    assert (lineage.id, lineage.parents, lineage.designer) == ("night-002-1", ("night-001-1",), designer.name)
    assert (lineage.hypothesis, lineage.change_class) == ("idea 1", "improve")
    assert (lineage.predicted_bd_rate_percent, lineage.predicted_tera_ops_per_frame) == (-5.5, 0.25)
    assert candidate.files["encoder.py"] == ENCODER % 1
    assert lineage.paid is not None
    assert (lineage.paid.model, lineage.paid.input_tokens, lineage.paid.output_tokens) == (designer.model, 13_700, 1500)
    assert lineage.paid.usd == pytest.approx(ONE_ANSWER)
    assert Candidate.from_json_bytes(candidate.to_json_bytes()) == candidate


def test_the_request_is_forced_streamed_and_ordered_for_the_cache(past: Past, play: Play) -> None:
    with MessagesServer([good(submission(1)), good(submission(2))]) as server:
        play(server).propose(past, 2)
    first, second = server.requests
    assert first["stream"] is True
    assert first["model"] == MODEL
    assert first["tool_choice"]["name"] == first["tools"][0]["name"] == "submit_candidate"
    system, content = first["system"], first["messages"][0]["content"]
    assert [block.get("cache_control") for block in (*system, *content)] == [{"type": "ephemeral"}] * 2 + [None]
    # Everything before the last breakpoint is the same in the next request: that is what the cache pays for.
    assert second["system"] == system
    assert second["tools"] == first["tools"]
    assert second["messages"][0]["content"][0] == content[0]
    assert second["messages"][0]["content"][1] != content[1]


def test_the_request_shows_what_happened_and_what_is_wanted(past: Past, play: Play) -> None:
    with MessagesServer([good(submission(1)), good(submission(2))]) as server:
        play(server).propose(past, 2)
    ledger, request = (block["text"] for block in server.requests[1]["messages"][0]["content"])
    assert "| talk.mkv | 0.1667 | 60 | 30.5 |" in ledger  # an anchor's point, four digits
    assert "Wanted: **improve** of night-001-1" in request
    assert ENCODER % 90 in request
    assert "-20% ↓ better, 40 × noise" in request
    assert "night-001-2: mean" not in request  # compared with its parent, not the parent with it
    assert "BD-rate against night-001-1: mean +12.5% ↑ worse, 25 × noise" in request  # the rival's, beyond noise
    assert "IndexError in encoder.py" in request
    assert "````\n```boom\n````" in request  # a log cannot close its own fence
    assert "- idea 1" in request  # proposed before it in this iteration
    assert "2 iterations of up to 2 candidates remain" in request
    assert "/home/me" not in json.dumps(server.requests)


def test_the_ledger_stays_as_it_is_until_ten_more_experiments_are_done(store: Store, past: Past) -> None:
    designer = ModelDesigner.offline(past.campaign, store, left={})

    def with_candidates(count: int) -> Past:
        rows = [
            experiment(f"night-{9 + i:03d}-1", iteration=9 + i, status="crashed", reason=f"why {i}")
            for i in range(count - 3)
        ]
        return Past(past.campaign, 99, (*past.experiments, *rows), past.points)

    ledgers = [designer.prompt(with_candidates(count), 1).ledger for count in (3, 9, 10, 19, 20)]
    assert ledgers[0] == ledgers[1] != ledgers[2] == ledgers[3] != ledgers[4]
    assert "[night-001-1] -20% ↓ better" in ledgers[2]
    assert "[night-010-1] crashed: why 1" in ledgers[2]


@pytest.mark.parametrize("trouble", [limited(0.01), broken(), overloaded()], ids=["429", "500", "529"])
def test_what_passes_is_asked_again(serve: Serve, past: Past, play: Play, trouble: Reply) -> None:
    with serve([trouble, trouble, good(submission())]) as server:
        (candidate,) = candidates(play(server).propose(past, 1))
    assert len(server.requests) == 3
    assert candidate.lineage.paid is not None
    assert candidate.lineage.paid.usd == pytest.approx(ONE_ANSWER)


def test_a_long_retry_after_is_capped_and_trouble_that_stays_ends_the_design(
    past: Past, play: Play, store: Store
) -> None:
    started = time.monotonic()
    with MessagesServer([limited(3600)] * 5) as server, pytest.raises(EvocodecError, match="no answer from") as caught:
        play(server).propose(past, 1)
    assert len(server.requests) == HASTY.tries
    assert time.monotonic() - started < 5
    assert "\n" not in str(caught.value)
    assert store.read_answer("night", "0002-1-1-1") is None


def test_a_refused_key_is_one_line_without_the_key(serve: Serve, past: Past, play: Play) -> None:
    with serve([denied(KEY)]) as server, pytest.raises(BadInputError) as caught:
        play(server).propose(past, 1)
    assert len(server.requests) == 1
    assert "invalid x-api-key …" in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_model_that_refuses_a_forced_tool_is_asked_to_use_it(serve: Serve, past: Past, play: Play) -> None:
    with serve([no_forced_tool(), good(submission(1)), good(submission(2))]) as server:
        assert len(candidates(play(server).propose(past, 2))) == 2
    forced, *free = (request["tool_choice"] for request in server.requests)
    assert forced["name"] == "submit_candidate"
    assert [getattr(choice, "get", {"type": choice}.get)("type") for choice in free] == ["auto", "auto"]


BROKEN_ANSWERS = {
    "malformed": (malformed(), "is not JSON"),
    "no tool": (talk(), "used 0 times"),
    "refusal": (refusal(), "refused: I will not do that."),
    "max_tokens": (too_long(submission()), "cut off (max_tokens)"),
    "field missing": (good({"hypothesis": "x"}), "files: Field required"),
    "unknown field": (good(submission(extra=1)), "extra: Extra inputs"),
    "unknown file": (good(submission(files={"codec.py": ""})), "no file 'codec.py'"),
    "unknown parent": (good(submission(parent_id="day-001-1")), "'day-001-1' is no experiment"),
    "syntax": (good(submission(files={"encoder.py": "def", "decoder.py": DECODER})), "encoder.py, line 1"),
    "network": (
        good(submission(files={"encoder.py": "import socket\n" + ENCODER % 1, "decoder.py": DECODER})),
        "socket",
    ),
    "infinite config": (good(submission(config={"x": 1e999})), "Infinity is not JSON"),
    "duplicate": (good(submission(90)), "the same code and config as night-001-1"),
}


@pytest.mark.parametrize(("reply", "problem"), BROKEN_ANSWERS.values(), ids=BROKEN_ANSWERS.keys())
def test_a_broken_answer_gets_one_repair_turn_that_says_what_is_wrong(
    past: Past, play: Play, reply: Reply, problem: str
) -> None:
    with MessagesServer([reply, good(submission(2))]) as server:
        (candidate,) = candidates(play(server).propose(past, 1))
    assert candidate.lineage.hypothesis == "idea 2"
    repair = server.requests[1]["messages"][0]["content"]
    assert repair[:2] == server.requests[0]["messages"][0]["content"]
    assert problem in repair[2]["text"]
    assert candidate.lineage.paid is not None
    assert candidate.lineage.paid.usd == pytest.approx(2 * ONE_ANSWER)


@pytest.mark.parametrize("kind", ["refusal", "syntax", "duplicate"])
def test_twice_broken_is_recorded_with_its_reason_and_its_price(
    past: Past, play: Play, store: Store, kind: str
) -> None:
    reply, problem = BROKEN_ANSWERS[kind]
    with MessagesServer([malformed(), reply]) as server:
        found = rejected(play(server).propose(past, 1))
    for _ in range(2):  # a resumed design comes here again
        record_rejected(store, past.campaign, past.iteration, found)
    (record,) = [row for row in store.experiments("night") if row.iteration == 2]
    assert (record.experiment_id, record.stage, record.attempt) == ("night-002-1", "design", 1)
    assert record.status == ("duplicate" if "same code" in problem else "rejected")
    assert problem in record.reason
    assert (record.model, record.input_tokens, record.output_tokens) == (MODEL, 27_400, 3000)
    assert record.usd == pytest.approx(2 * ONE_ANSWER)
    if record.candidate_hash:
        assert Candidate.from_json_bytes(store.get_blob(record.candidate_hash)).lineage.id == "night-002-1"


def test_a_number_too_large_for_json_is_recorded_too(past: Past, play: Play, store: Store) -> None:
    """`1e999` is valid JSON, and Python reads it as infinity."""
    text = json.dumps(submission()).replace('{"depth": 1}', '{"depth": 1e999}')
    endless = Reply(blocks=({"type": "tool_use", "name": "submit_candidate", "text": text},))
    with MessagesServer([endless, endless]) as server:
        found = rejected(play(server).propose(past, 1))
    record_rejected(store, past.campaign, past.iteration, found)
    (record,) = [row for row in store.experiments("night") if row.iteration == 2]
    assert "config is not JSON" in record.reason


def test_a_stream_that_breaks_is_paid_for_kept_and_asked_again(
    serve: Serve, past: Past, play: Play, store: Store
) -> None:
    with serve([cut(submission(1)), good(submission(2))]) as server:
        (candidate,) = candidates(play(server).propose(past, 1))
    assert candidate.lineage.hypothesis == "idea 2"
    partial, whole = answers(store, "0002-1-1-1", "0002-1-1-2")
    assert partial["error"]
    # One vendor says at the beginning what it charges for a request, the other at the end: then it is estimated.
    sent, told = Usage.model_validate(partial["usage"]).prompt_tokens, play(server).name == "anthropic"
    assert sent == 13_700 if told else sent == math.ceil(len(store.get_blob(partial["request_hash"])) / 4)
    assert partial["usage"]["output_tokens"] == math.ceil(len(partial["blocks"][0]["text"]) / 4) > 0
    assert (whole["error"], whole["request_id"]) == ("", "req_0002")
    assert candidate.lineage.paid is not None
    assert candidate.lineage.paid.input_tokens == sent + 13_700


def test_a_stream_that_always_breaks_ends_as_rejected(past: Past, play: Play) -> None:
    with MessagesServer([cut(submission(1))] * 7) as server:
        found = rejected(play(server).propose(past, 1))
    assert "never came whole" in found.reason
    assert len(server.requests) == 6  # two turns of three: no endless spending


def test_a_slow_answer_is_given_up_in_time(past: Past, play: Play) -> None:
    patience = Patience(tries=2, first_wait=0.01, longest_wait=0.05, silence=5, answer=0.3)
    with MessagesServer([slow(submission(1), 0.2), good(submission(2))]) as server:
        (candidate,) = candidates(play(server, patience).propose(past, 1))
    assert candidate.lineage.hypothesis == "idea 2"


def test_silence_is_given_up_in_time(serve: Serve, past: Past, play: Play) -> None:
    patience = Patience(tries=2, first_wait=0.01, longest_wait=0.05, silence=0.3, answer=10)
    with serve([slow(submission(1), 1.0), good(submission(2))]) as server:
        (candidate,) = candidates(play(server, patience).propose(past, 1))
    assert candidate.lineage.hypothesis == "idea 2"


def test_a_raw_answer_is_kept_and_asked_for_once(serve: Serve, past: Past, play: Play, store: Store) -> None:
    """A loop that was killed after its first answers asks only for what it has not got, and comes to the same end."""
    script = [malformed(), good(submission(1)), good(submission(2))]
    with serve(script) as server:
        whole = play(server).propose(past, 2)
    raw = answers(store, "0002-1-1-1", "0002-1-2-1", "0002-2-1-1")
    assert raw[0]["blocks"][0]["text"] == '{"hypothesis": "half a'
    assert raw[1]["usage"] == COUNTED
    assert raw[2]["model"] == MODELS[play(server).name]
    assert json.loads(store.get_blob(raw[2]["request_hash"]))["tool_choice"]["name"] == "submit_candidate"
    with serve([]) as silent:
        again = play(silent).propose(past, 2)
    assert silent.requests == []
    assert again == whole


@pytest.mark.slow
def test_a_killed_loop_pays_for_nothing_twice(
    serve: Serve, play: Play, past: Past, store: Store, tmp_path: Path
) -> None:
    """kill -9 while the second answer is coming: the first one is used, and only the second is asked for again."""
    code = (
        "import sys; from tasks.design.designer import Past, make_designer; from tasks.store.store import Store\n"
        "store = Store.open(sys.argv[1]); campaign = store.read_campaign('night')\n"
        "past = Past.of(campaign, 2, store.experiments('night'), store.points('night'))\n"
        "for made in make_designer(campaign, store).propose(past, 2): print(made.lineage.hypothesis)\n"
        "print('LOADED', sorted({'torch', 'av', 'cv2'} & set(sys.modules)))\n"
    )
    with serve([good(submission(1)), slow(submission(2), 30), good(submission(3))]) as server:
        command = [sys.executable, "-c", code, str(tmp_path / "store")]
        name = play(server).name
        store.write_campaign(past.campaign.model_copy(update={"designer": name, "model": MODELS[name]}))
        environment = clean_environment() | settings(server)
        first = subprocess.Popen(command, env=environment)
        deadline = time.monotonic() + 60
        while len(server.requests) < 2 and time.monotonic() < deadline and first.poll() is None:
            time.sleep(0.02)
        first.kill()
        first.wait()
        second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert second.returncode == 0, second.stderr
    assert second.stdout.splitlines() == ["idea 1", "idea 3", "LOADED []"]
    assert len(server.requests) == 3


def test_the_key_is_nowhere_but_in_the_request(
    serve: Serve, past: Past, play: Play, store: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: Any
) -> None:
    caplog.set_level("WARNING")
    script = [limited(0.01), cut(submission(1)), refusal(), malformed(), good(submission(2)), denied(KEY)]
    with serve(script) as server:
        designer = play(server)
        proposals = designer.propose(past, 2)
        with pytest.raises(BadInputError) as caught:
            designer.propose(Past(past.campaign, 3, past.experiments, past.points), 1)
    for proposal in proposals:
        if isinstance(proposal, Rejected):
            record_rejected(store, past.campaign, past.iteration, proposal)
        else:
            store.put_blob(proposal.to_json_bytes())
    assert set(server.keys) == {KEY}
    said = "".join((*capfd.readouterr(), caplog.text, str(caught.value), repr(designer), json.dumps(server.requests)))
    assert "asking again" in said
    assert KEY not in said
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        assert KEY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("name", VENDORS)
def test_without_a_key_one_line_says_what_to_do(
    store: Store, past: Past, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv(VENDORS[name].key, raising=False)
    campaign = past.campaign.model_copy(update={"designer": name, "model": ""})
    with pytest.raises(BadInputError, match=rf"{name.upper()}_API_KEY is not set: .* --designer search"):
        make_designer(campaign, store)
    monkeypatch.setenv(VENDORS[name].key, KEY)
    designer = make_designer(campaign, store)
    assert isinstance(designer, ModelDesigner)
    assert (designer.name, designer.model) == (name, VENDORS[name].default_model)  # which has a price


def test_without_the_extra_one_line_says_what_to_install(
    store: Store, past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setitem(sys.modules, "openai", None)  # as Python marks what cannot be imported
    with pytest.raises(BadInputError, match=r"pip install 'evocodec\[openai\]'.*--designer search"):
        make_designer(past.campaign.model_copy(update={"designer": "openai", "model": ""}), store)


def test_the_other_vendors_request_is_forced_streamed_and_ordered_for_the_cache(past: Past, play: Play) -> None:
    with ResponsesServer([good(submission(1)), good(submission(2))]) as server:
        play(server).propose(past, 2)
    first, second = server.requests
    assert (first["stream"], first["store"], first["model"]) == (True, False, MODELS["openai"])
    assert first["tool_choice"] == {"type": "function", "name": first["tools"][0]["name"]}
    assert first["parallel_tool_calls"] is False
    parts = [part for message in first["input"] for part in message["content"]]
    assert [part.get("prompt_cache_breakpoint") for part in parts] == [{"mode": "explicit"}] * 2 + [None]
    assert [message["role"] for message in first["input"]] == ["developer", "user"]
    assert {name for name in first if first[name] != second[name]} == {"input"}
    assert second["input"][0] == first["input"][0]
    assert [part == other for part, other in zip(parts[1:], second["input"][1]["content"], strict=True)] == [
        True,
        False,
    ]


def test_a_server_without_breakpoints_is_asked_without_them(past: Past, play: Play) -> None:
    with ResponsesServer([no_breakpoints(), good(submission(1)), good(submission(2))]) as server:
        assert len(candidates(play(server).propose(past, 2))) == 2
    refused, *taken = (json.dumps(request) for request in server.requests)
    assert "prompt_cache" in refused
    assert not any("prompt_cache" in request for request in taken)


def test_an_account_without_money_is_not_asked_again(past: Past, play: Play) -> None:
    with ResponsesServer([no_money()] * 2) as server, pytest.raises(BadInputError, match="exceeded your current quota"):
        play(server).propose(past, 1)
    assert server.unused == 1


EDITS = {
    "made": ([{"search": "bytes([90])", "replace": "bytes([91])"}], ""),
    "astray": (
        [{"search": "bytes([89])", "replace": ""}],
        "encoder.py of night-001-1, edit 1: its search",
    ),
    "twice": ([{"search": "e", "replace": ""}], "edit 1: its search text is found"),
    "empty search": ([{"search": "", "replace": "x"}], "at least 1 character"),
}


@pytest.mark.parametrize(("edits", "problem"), EDITS.values(), ids=EDITS.keys())
def test_a_file_may_come_as_edits_that_match_the_parent_exactly(
    past: Past, play: Play, edits: list[dict[str, str]], problem: str
) -> None:
    files = {"encoder.py": edits, "decoder.py": []}
    answer = submission(90, change_class="improve", parent_id="night-001-1", files=files)
    with MessagesServer([good(answer), good(submission(2))]) as server:
        (candidate,) = candidates(play(server).propose(past, 1))
    if problem:
        assert problem in server.requests[1]["messages"][0]["content"][2]["text"]
    else:
        assert candidate.files == {"encoder.py": ENCODER % 91, "decoder.py": DECODER}


@pytest.mark.parametrize("parent", [None, "night-001-3"])
def test_edits_of_no_parents_file_are_refused(past: Past, play: Play, parent: str | None) -> None:
    answer = submission(1, parent_id=parent, files={"encoder.py": [], "decoder.py": DECODER})
    with MessagesServer([good(answer)] * 2) as server:
        found = rejected(play(server).propose(past, 1))
    assert found.reason.startswith("encoder.py comes as edits and ")
    assert found.reason.endswith("whole")


def test_the_nearest_failures_come_with_their_own_frames_and_what_they_changed(store: Store, past: Past) -> None:
    """Near is like the parent in code: the latest failure, which is not, comes after an older one that is."""
    trace = (
        'Traceback (most recent call last):\n  File "/lab/child.py", line 7, in main\n    run()\n'
        '  File "encoder.py", line 2, in compress_video_tensor\n    return {}[9]\nKeyError: 9\n'
    )
    other = "import zlib\ndef compress_video_tensor(a, b, c):\n    return {'compressed_data': zlib.compress(a)}\n"
    for number, encoder in ((4, ENCODER % 91), (5, other)):
        files = {"encoder.py": encoder, "decoder.py": DECODER}
        failed = Candidate.model_validate({"files": files, "config": {}, "lineage": {"id": f"night-001-{number}"}})
        kept = {"candidate_hash": store.put_blob(failed.to_json_bytes()), "ast_hash": failed.ast_hash}
        row = experiment(f"night-001-{number}", iteration=1, minutes=number, status="crashed", log=trace * 2, **kept)
        store.write_experiment(row, [], [])
    past = Past.of(past.campaign, 2, store.experiments("night"), store.points("night"))
    designer = ModelDesigner.offline(past.campaign, store, left={})

    def improve(past: Past, number: int, load: Load) -> Brief:
        while archive_brief(past, number, load).parents != ("night-001-1",):
            number += 1
        return archive_brief(past, number, load)

    request = replace(designer, choose=improve).prompt(past, 1).request
    places = [request.index(f"### night-001-{number}: crashed") for number in (4, 5)]
    assert places == sorted(places)
    assert trace.replace('  File "/lab/child.py", line 7, in main\n    run()\n', "  …\n") in request
    assert "What it had otherwise than night-001-1:" in request
    assert "-    return {'compressed_data': bytes([90])}\n+    return {'compressed_data': bytes([91])}" in request


def with_tried(past: Past, store: Store, count: int) -> Past:
    """The same after `count` experiments in all, the new ones in iterations of their own, and before the next."""
    begun = max(record.iteration for record in store.experiments("night") if record.kind == "candidate")
    for number in range(max(4, begun + 1), count + 1):
        crashed = experiment(f"night-{number:03d}-1", iteration=number, status="crashed", reason=f"why {number}")
        store.write_experiment(crashed, [], [])
    return Past.of(past.campaign, count + 1, store.experiments("night"), store.points("night"))


def rewriting(*lines: tuple[str, list[str]]) -> Reply:
    content = {"lines": [{"insight": insight, "experiments": cited} for insight, cited in lines]}
    return good(content, tool="rewrite_ledger")


WRITTEN = rewriting(
    ("bytes of 90 are enough", ["night-001-1", "night-x265-medium"]),
    ("a belief without a ground", []),
    ("seen in the future", ["night-001-1", "night-011-1"]),
    ("as night-099-1 shows", ["night-001-1"]),
)


def texts(request: dict[str, Any]) -> list[str]:
    """The texts of a request, whichever API it is for."""
    messages = request.get("input") or [{"content": request["system"]}, *request["messages"]]
    return [part["text"] for message in messages for part in message["content"]]


def test_ten_experiments_are_made_into_insights_that_cite_them(
    serve: Serve, past: Past, play: Play, store: Store
) -> None:
    past = with_tried(past, store, 10)
    with serve([WRITTEN, good(submission(1)), good(submission(2))]) as server:
        made = candidates(play(server).propose(past, 2))
        again = candidates(play(server).propose(past, 2))  # as after a kill: all of it is on record
    assert again == made
    asked, *answered = server.requests
    assert asked["tool_choice"]["name"] == "rewrite_ledger"
    assert all(request["tools"] == asked["tools"] and texts(request)[0] == texts(asked)[0] for request in answered)
    assert "rewrite the insights" in texts(asked)[2]
    assert "why 10" in texts(asked)[2]
    ledger = texts(answered[0])[1]
    assert ledger.startswith(texts(asked)[1].rstrip())  # the computed facts stay as they are, the insights follow
    assert "- bytes of 90 are enough [night-001-1, night-x265-medium]" in ledger
    assert not any(dropped in ledger for dropped in ("without a ground", "in the future", "night-099-1"))
    (record,) = [row for row in store.experiments("night") if row.kind == "insights"]
    assert (record.experiment_id, record.iteration, record.status) == ("night-insights-0010", 11, "measured")
    assert record.usd == pytest.approx(ONE_ANSWER)
    assert record.log.splitlines() == [
        "dropped, it cites no experiment: a belief without a ground",
        "dropped, it cites night-011-1, which is not on record: seen in the future",
        "dropped, it cites night-099-1, which is not on record: as night-099-1 shows",
    ]
    account = budget_ledger(store.experiments("night"))
    assert (account.spent.usd, account.spent.experiments) == (pytest.approx(ONE_ANSWER), 10)
    # Nor is it asked for again in a later iteration, or an id believed that came into being after it was cited.
    later = with_tried(past, store, 12)
    with serve([good(submission(3))]) as server:
        candidates(play(server).propose(later, 1))
    assert texts(server.requests[0])[1] == ledger


@pytest.mark.parametrize(
    "reply", [refusal(), malformed(), rewriting(("no ground", []))], ids=["refused", "broken", "bare"]
)
def test_insights_that_cannot_be_used_leave_those_before_them(
    past: Past, play: Play, store: Store, reply: Reply
) -> None:
    ten = with_tried(past, store, 10)
    with MessagesServer([WRITTEN, good(submission(1))]) as server:
        play(server).propose(ten, 1)
    twenty = with_tried(past, store, 20)
    with MessagesServer([reply, good(submission(2)), good(submission(3))]) as server:
        play(server).propose(twenty, 1)
        play(server).propose(with_tried(past, store, 21), 1)
    assert [request["tool_choice"]["name"] for request in server.requests] == [
        "rewrite_ledger",
        *["submit_candidate"] * 2,
    ]
    assert all("What a model made of the first 10 experiments" in texts(request)[1] for request in server.requests)
    assert "bytes of 90 are enough" in texts(server.requests[0])[1]  # to be kept, mended or left out
    record = next(row for row in store.experiments("night") if row.experiment_id == "night-insights-0020")
    assert (record.status, record.usd) == ("rejected", pytest.approx(ONE_ANSWER))
    assert record.reason


def test_insights_count_against_the_budget(past: Past, play: Play, store: Store) -> None:
    past = with_tried(past, store, 10)
    with MessagesServer([WRITTEN, good(submission(1)), good(submission(2))]) as server:
        assert replace(play(server), left={"usd": 0.0}).propose(past, 2) == []
        assert server.requests == []
        assert len(replace(play(server), left={"usd": 1.5 * ONE_ANSWER}).propose(past, 2)) == 1
    assert server.unused == 1


def test_what_would_be_sent_next_is_the_rewriting_where_it_is_due(past: Past, play: Play, store: Store) -> None:
    offline = ModelDesigner.offline(past.campaign, store, left={})
    assert offline.next_prompt(past).forced == "submit_candidate"
    past = with_tried(past, store, 10)
    shown = offline.next_prompt(past)
    with MessagesServer([WRITTEN, good(submission(1))]) as server:
        play(server).propose(past, 1)
    assert texts(server.requests[0]) == [shown.system, shown.ledger, shown.request]
    assert offline.next_prompt(past).forced == "submit_candidate"


def test_what_fails_before_it_has_said_anything_is_not_paid_for(serve: Serve, past: Past, play: Play) -> None:
    with serve([fails_inside(), fails_inside(), good(submission(2))]) as server:
        (candidate,) = candidates(play(server).propose(past, 1))
    assert candidate.lineage.paid is not None
    assert candidate.lineage.paid.usd == pytest.approx(ONE_ANSWER)


@pytest.mark.parametrize("kind", ["malformed", "no tool", "refusal", "max_tokens", "field missing"])
def test_the_other_vendors_broken_answers_are_told_apart_too(past: Past, play: Play, kind: str) -> None:
    reply, problem = BROKEN_ANSWERS[kind]
    with ResponsesServer([reply, reply]) as server:
        found = rejected(play(server).propose(past, 1))
    assert problem.replace("max_tokens", "max_output_tokens") in found.reason
    assert found.paid is not None
    assert found.paid.usd == pytest.approx(2 * ONE_ANSWER)


def test_the_choice_of_a_parent_can_be_another(past: Past, play: Play, store: Store) -> None:
    def choose(past: Past, number: int, load: Load) -> Brief:
        return Brief("crossover", ("night-001-2", "night-001-1"), note="the archive says so")

    other = replace(ModelDesigner.offline(past.campaign, store, left={"usd": 2.5}), choose=choose)
    request = other.prompt(past, 1).request
    assert "**crossover** of night-001-2 and night-001-1. Why: the archive says so." in request
    assert "Left of the budget before this iteration: 2.5 usd." in request
    assert "BD-rate: 1 predictions" in request  # the designer sees how well it foresees


def test_a_run_without_a_key_ends_before_anything_is_started(evocodec: Evocodec) -> None:
    result = evocodec("run", "--designer", "anthropic", "--campaign", "night")
    assert result.returncode == 2
    assert "ANTHROPIC_API_KEY is not set" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_model_that_is_on_no_price_list_is_refused_or_priced_by_the_user(
    past: Past, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    unknown = past.campaign.model_copy(update={"model": "claude-of-tomorrow"})
    with pytest.raises(BadInputError, match="no price is known for the model 'claude-of-tomorrow'"):
        make_designer(unknown, store)
    price = ModelPrice(input=1, output=10, cache_write=2, cache_read=0.5)
    designer = make_designer(unknown.model_copy(update={"model_price": price}), store)
    assert isinstance(designer, ModelDesigner)
    million = Usage(
        input_tokens=10**6,
        output_tokens=10**6,
        cache_write_tokens=10**6,
        cache_read_tokens=10**6,
    )
    assert designer.price("claude-of-tomorrow", million) == pytest.approx(13.5)


def test_a_crossover_has_both_of_its_parents(past: Past, play: Play) -> None:
    crossover = submission(1, change_class="crossover", parent_id="night-001-2")
    with MessagesServer([good(crossover)]) as server:
        designer = replace(play(server), choose=lambda *order: Brief("crossover", ("night-001-2", "night-001-1")))
        (candidate,) = candidates(designer.propose(past, 1))
    assert candidate.lineage.parents == ("night-001-2", "night-001-1")


def test_the_archive_chooses_where_nobody_else_does(past: Past, store: Store) -> None:
    designer = ModelDesigner.offline(past.campaign, store, left={})
    prompts = [designer.prompt(past, number).request for number in range(1, 9)]
    assert prompts == [designer.prompt(past, number).request for number in range(1, 9)]
    assert {kind for kind in ("improve", "repair", "draft") if any(f"**{kind}**" in text for text in prompts)} == {
        "improve",
        "repair",
        "draft",
    }


def test_no_further_answer_is_asked_for_once_the_budget_is_spent(past: Past, play: Play) -> None:
    with MessagesServer([good(submission(1)), good(submission(2)), good(submission(3))]) as server:
        designer = replace(play(server), left={"usd": 1.5 * ONE_ANSWER})
        assert len(candidates(designer.propose(past, 3))) == 2
    assert server.unused == 1


def test_a_model_without_a_price_is_refused_before_it_is_asked(past: Past, play: Play, store: Store) -> None:
    def refuse(model: str, usage: Usage, /) -> float:
        raise BadInputError(f"no price for {model}")

    with MessagesServer([good(submission())]) as server:
        designer = replace(play(server), price=refuse)
        with pytest.raises(BadInputError, match="no price"):
            designer.propose(past, 1)
    assert server.requests == []


def test_a_resumed_iteration_does_not_see_its_own_records(past: Past, store: Store) -> None:
    store.write_experiment(experiment("night-002-1", iteration=2, status="rejected", reason="x"), [], [])
    again = Past.of(past.campaign, 2, store.experiments("night"), store.points("night"))
    assert again == past


def test_the_stand_in_also_answers_without_a_stream() -> None:
    """So that it stays a stand-in for the API and not for our use of it."""
    with ResponsesServer([good(submission(7))]) as other:
        response = openai.OpenAI(api_key=KEY, base_url=other.base_url).responses.create(
            model="gpt-6-sol", input="hello"
        )
    assert response.output[0].type == "function_call"
    assert json.loads(response.output[0].arguments) == submission(7)
    assert (response.status, response.usage and response.usage.input_tokens_details.cached_tokens) == (
        "completed",
        9000,
    )
    with MessagesServer([good(submission(7))]) as server:
        client = anthropic.Anthropic(api_key=KEY, base_url=server.url, max_retries=0)
        message = client.messages.create(model=MODEL, max_tokens=9, messages=[{"role": "user", "content": "hello"}])
    assert message.stop_reason == "tool_use"
    assert message.usage.cache_read_input_tokens == 9000
    assert message.content[0].type == "tool_use"
    assert message.content[0].input == submission(7)


def test_the_prompt_command_prints_exactly_what_is_sent(
    past: Past, play: Play, store: Store, evocodec: Evocodec, tmp_path: Path
) -> None:
    store.write_design("night", 1, ())
    with MessagesServer([good(submission(1))]) as server:
        replace(play(server), choose=archive_brief).propose(past, 1)
    shown = evocodec("prompt", "--campaign", "night", "--store", tmp_path / "store", "--json")
    assert shown.returncode == 0, shown.stderr
    body = json.loads(shown.stdout)
    sent = server.requests[0]
    assert {name for name in sent if sent[name] != body.get(name)} == {"stream"}
    text = evocodec("prompt", "--campaign", "night", "--store", tmp_path / "store").stdout
    for part in (*sent["system"], *sent["messages"][0]["content"]):
        assert part["text"] in text
    unknown = evocodec("prompt", "--campaign", "day", "--store", tmp_path / "store")
    assert unknown.returncode == 2
    assert "it holds night" in unknown.stderr


@pytest.mark.slow
def test_the_prompt_says_where_a_measured_decoder_spends_its_operations(
    store: Store, evocodec: Evocodec, tmp_path: Path
) -> None:
    clip = tiny_clip(11, frames=4)
    campaign = Campaign(name="counted", limits=Limits(encode_seconds=60, decode_seconds=30), clips=(clip.name,))
    store.write_campaign(campaign)
    (seed,) = [start for start in starting_population() if start.lineage.id == "autoencoder"]
    quick = seed.model_copy(update={"config": seed.config | {"training_steps": 3}})
    digest = store.put_blob(quick.to_json_bytes())
    ref = CandidateRef(experiment_id="counted-001-1", candidate_hash=digest, iteration=1)
    done = evaluate(
        quick,
        [clip],
        campaign="counted",
        experiment_id="counted-001-1",
        qualities=(0.2, 0.4, 0.6, 0.8),
        limits=campaign.limits,
        isolation=ProcessIsolation(campaign.limits),
    )
    assert done.status == "measured", done.reason
    record = experiment("counted-001-1", "counted", iteration=1, candidate_hash=digest, config=quick.config)
    reference = anchor("x265-medium", "x265", "medium", "counted")
    theirs = [
        point.model_copy(update={"experiment_id": reference.experiment_id, "tera_ops_per_frame": None})
        for point in done.points
    ]
    store.write_experiment(reference, theirs, [])
    store.write_experiment(record, done.points, [])
    store.write_design("counted", 1, (ref,))

    shown = evocodec("prompt", "--campaign", "counted", "--store", tmp_path / "store").stdout
    assert "Wanted: **improve** of counted-001-1" in shown
    # Three linear layers of 8 x 8 on 8 x 8 x 8 blocks: 3 x 16 operations a sample, of 4 frames that are padded to 8.
    each = 16 * 1.5 * 1920 * 1080 * 2 / 1e12
    parts = [f"Synthesis.{axis} {each:.4g}" for axis in ("columns", "rows", "time")]
    assert f"- decoder's tera-ops by module on {clip.name}: {', '.join(parts)}\n" in shown
    assert "network was counted" not in shown


@pytest.mark.parametrize(
    ("counted", "said"),
    [
        ({}, "no network was counted"),
        ({"tera_ops_per_frame": 0.25}, "0.25, which the record does not split"),
        (
            {"tera_ops_per_frame": 0.25, "tera_ops_by_module": {"outside modules": 0.05, "av2/Net.head\n#": 0.2}},
            "av2/Net.head # 0.2, outside modules 0.05",
        ),
    ],
)
def test_what_cannot_be_split_is_said(store: Store, past: Past, counted: dict[str, Any], said: str) -> None:
    points = [point.model_copy(update=counted) for point in past.points]
    designer = replace(ModelDesigner.offline(past.campaign, store, left={}), choose=improve_the_first)
    request = designer.prompt(replace(past, points=tuple(points)), 1).request
    assert f"- decoder's tera-ops by module on talk.mkv: {said}\n" in request
