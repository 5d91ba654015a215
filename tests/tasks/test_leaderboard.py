"""The order of merit from records alone, and what the UI shows of it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sample_records import anchor, curve, experiment, scenes, verified

from tasks.analyze.leaderboard import Standing, best, campaign_met, config_summary, standings, target_kbps
from tasks.analyze.summary import artifact_key, iteration_markdown, leaderboard_rows
from tasks.campaign import Campaign, Targets
from tasks.store.records import ExperimentRecord, PointRecord

TARGETS = Targets()
# A full-HD clip of these points meets the default targets at 200 kbps.
FULL_HD: dict[str, Any] = {"width": 1920, "height": 1080, "frames_per_second": 30.0, "ssim_y": 0.96}

Campaigned = tuple[list[ExperimentRecord], list[PointRecord]]


def anchors(clips: tuple[str, ...] = ("talk",), **changes: Any) -> Campaigned:
    rows = [anchor("x265-medium", "x265", "medium"), anchor("svtav1-p6", "av1", "6")]
    factors = {"night-x265-medium": 1.0, "night-svtav1-p6": 0.85}
    return rows, [
        point for name, factor in factors.items() for clip in clips for point in curve(name, clip, factor, **changes)
    ]


def board_of(factors: dict[str, float], *more: ExperimentRecord, **changes: Any) -> list[Standing]:
    rows, points = anchors()
    for name, factor in factors.items():
        rows.append(experiment(name, **changes))
        points += curve(name, "talk", factor)
    return ranking([*rows, *more], points, TARGETS)


def ranking(
    records: list[ExperimentRecord], points: list[PointRecord], targets: Targets, **more: Any
) -> list[Standing]:
    """The standings once every candidate has been verified."""
    return standings(verified(records), points, targets, **more)


def order(board: list[Standing]) -> list[tuple[int | None, str]]:
    return [(row.rank, row.experiment_id) for row in board]


def test_ranked_by_mean_bd_rate_with_the_anchors_among_the_rows() -> None:
    assert order(board_of({"c": 0.9, "b": 0.7, "a": 1.2})) == [
        (1, "b"),
        (2, "night-svtav1-p6"),
        (3, "c"),
        (4, "night-x265-medium"),
        (5, "a"),
    ]


def test_equal_merit_is_ordered_by_name_whatever_the_order_of_the_records() -> None:
    rows, points = anchors()
    rows += [experiment("b"), experiment("a")]
    points += [*curve("b", "talk", 0.5), *curve("a", "talk", 0.5)]
    there, back = (ranking(records, points, TARGETS) for records in (rows, rows[::-1]))
    assert order(there) == order(back)
    assert order(there)[:2] == [(1, "a"), (2, "b")]


def test_the_mean_is_over_the_clips_against_each_anchor() -> None:
    rows, points = anchors(("talk", "screen"))
    points += [*curve("a", "talk", 0.5), *curve("a", "screen", 0.9)]
    row = ranking([*rows, experiment("a")], points, TARGETS)[0]
    assert row.mean_bd_rates["x265-medium"] == pytest.approx(-30)
    assert row.mean_bd_rates["svtav1-p6"] == pytest.approx(100 * ((0.5 + 0.9) / 2 / 0.85 - 1))
    assert row.mean_bd_rate == row.mean_bd_rates["x265-medium"]


def test_one_clip_without_a_bd_rate_leaves_no_mean() -> None:
    rows, points = anchors(("talk", "screen"))
    points += [*curve("a", "talk", 0.5), *curve("a", "screen", 0.9)[:2]]
    row = next(row for row in ranking([*rows, experiment("a")], points, TARGETS) if row.experiment_id == "a")
    assert row.rank is None
    assert row.mean_bd_rate is None
    reason = next(clip for clip in row.clips if clip.clip == "screen").bd_rates["x265-medium"].reason
    assert reason == "the test has 2 usable points, 4 are needed"


def test_what_failed_comes_last_and_has_no_score() -> None:
    failed = experiment("0-failed", status="crashed", stage="decode", reason="it broke")
    board = board_of({"a": 2.0}, failed)
    assert board[-1].experiment_id == "0-failed"
    assert (board[-1].rank, board[-1].clips, board[-1].mean_bd_rate, board[-1].decode_fps) == (None, (), None, None)
    shown = leaderboard_rows(board)[-1]
    assert shown.pop("status") == "crashed: it broke"
    assert shown.pop("experiment") == "0-failed"
    assert (shown.pop("what"), shown.pop("track")) == ("av1 preset 6", "overfitted")
    assert set(shown.values()) == {None}


def test_results_without_isolation_are_barred_from_rank_best_and_success() -> None:
    rows, points = anchors(**FULL_HD)
    points += curve("a", "talk", 0.1, **FULL_HD)
    board = ranking([*rows, experiment("a", isolation="none")], points, TARGETS)
    row = next(row for row in board if row.experiment_id == "a")
    assert row.mean_bd_rate == pytest.approx(-90)
    assert row.met
    assert row.rank is None
    assert best(board) is None
    assert not campaign_met(board)


def test_the_last_attempt_counts() -> None:
    lost = experiment("a", status="infrastructure", attempt=1)
    found = experiment("a", attempt=2)
    rows, points = anchors()
    for records in ([lost, found], [found, lost]):
        board = ranking([*rows, *records], [*points, *curve("a", "talk", 0.5)], TARGETS)
        assert [row.experiment.attempt for row in board if row.experiment_id == "a"] == [2]
        assert board[0].rank == 1


def test_without_anchors_nothing_is_ranked() -> None:
    board = ranking([experiment("a")], curve("a", "talk"), TARGETS)
    assert (board[0].rank, board[0].mean_bd_rates, best(board)) == (None, {}, None)


def test_a_failed_anchor_is_no_reference() -> None:
    failed = anchor("x265-medium", "x265", "medium").model_copy(update={"status": "timeout"})
    board = ranking([failed, experiment("a")], curve("a", "talk"), TARGETS)
    assert [row.mean_bd_rates for row in board] == [{}, {}]


def test_the_front_is_of_rate_operations_and_decode_speed() -> None:
    rows, points = anchors()
    traits: dict[str, tuple[float, dict[str, Any]]] = {
        "best rate": (0.5, {"tera_ops_per_frame": 1.0, "decode_fps": 50.0}),
        "faster": (0.6, {"tera_ops_per_frame": 1.0, "decode_fps": 500.0}),
        "lighter": (0.7, {"tera_ops_per_frame": 0.5, "decode_fps": 50.0}),
        "dominated": (0.75, {"tera_ops_per_frame": 1.1, "decode_fps": 40.0}),
    }
    for name, (factor, changes) in traits.items():
        rows.append(experiment(name))
        points += curve(name, "talk", factor, **changes)
    on_front = {row.experiment_id: row.on_front for row in ranking(rows, points, TARGETS)}
    assert {name: on_front[name] for name in traits} == {
        "best rate": True,
        "faster": True,
        "lighter": True,
        "dominated": False,
    }
    assert on_front["night-svtav1-p6"]
    assert not on_front["night-x265-medium"]


def test_best_leaves_the_anchors_out() -> None:
    board = board_of({"a": 1.5, "b": 1.4})
    assert board[0].kind == "anchor"
    assert (best(board) or board[0]).experiment_id == "b"


def test_a_campaign_is_not_met_by_an_anchor() -> None:
    rows, points = anchors(**FULL_HD)
    assert all(row.met for row in ranking(rows, points, TARGETS))
    assert not campaign_met(ranking(rows, points, TARGETS))
    points += curve("a", "talk", **FULL_HD)
    assert campaign_met(ranking([*rows, experiment("a")], points, TARGETS))


def test_a_campaign_is_met_on_every_clip_or_not_at_all() -> None:
    rows, points = anchors(("talk", "screen"), **FULL_HD)
    points += [*curve("a", "talk", **FULL_HD), *curve("a", "screen", 10.0, **FULL_HD)]
    board = ranking([*rows, experiment("a")], points, TARGETS)
    assert not campaign_met(board)
    assert next(row["targets"] for row in leaderboard_rows(board) if row["experiment"] == "a") == (
        "missed: bitrate, saving over HEVC"
    )


def test_rows_say_what_is_shown() -> None:
    row = leaderboard_rows(board_of({"a": 0.5}))[0]
    assert row["rank"] == 1
    assert row["what"] == "av1 preset 6"
    assert row["BD-rate vs x265-medium"] == "-50.0%"
    assert row["BD-rate vs svtav1-p6"] == "-41.2%"
    # The cheapest good point is the one of 100 kbps at 36.2 dB, of 640×360 at 25 fps.
    assert row["kbps at targets (1080p30)"] == "1080"
    assert row["PSNR-Y dB"] == "30.5-41.6"
    assert row["decode fps"] == "200"
    assert row["status"] == "measured"


def test_the_cheapest_rate_is_unknown_where_no_point_is_good() -> None:
    dull = curve("a", "talk", ssim_y=0.5)
    row = ranking([experiment("a")], dull, TARGETS)[0]
    assert target_kbps(row.clips[0]) is None
    assert leaderboard_rows([row])[0]["kbps at targets (1080p30)"] == "not reached"


def test_noise_over_the_target_is_noted() -> None:
    rows, points = anchors()
    noisy = ranking(rows, points, TARGETS, scenes=scenes("night-x265-medium", "talk", noise=12.0))
    quiet = ranking(rows, points, TARGETS, scenes=scenes("night-x265-medium", "talk", noise=1.0))
    assert re.fullmatch(r"its noise alone costs \d+ kbps at 35 dB", noisy[0].clips[0].note)
    assert quiet[0].clips[0].note == ""


@pytest.mark.parametrize(
    ("config_json", "said"),
    [
        ('{"strategy": "vvc", "preset": "fast", "scale": "3/4"}', "vvc preset fast scale 3/4"),
        ('{"strategy": "x264", "preset": null}', "x264"),
        ('{"width": 3}', "own code"),
        ("[]", "own code"),
    ],
)
def test_a_config_in_a_few_words(config_json: str, said: str) -> None:
    assert config_summary(config_json) == said


@pytest.mark.parametrize("name", ["night", "Night", "my_night.2", "-".join("abc"), "A.", "x" * 64])
def test_artifact_keys_are_what_prefect_accepts(name: str) -> None:
    assert re.fullmatch(r"leaderboard-[a-z0-9]+(-[a-z0-9]+)*", artifact_key("leaderboard", name))


def test_artifact_keys_of_two_campaigns_differ() -> None:
    names = ["night", "Night", "night-1", "night.1", "night_1", "NIGHT.1"]
    assert len({artifact_key("summary", name) for name in names}) == len(names)
    assert artifact_key("summary", "night") == "summary-night"


def test_what_a_candidate_writes_stays_text_in_markdown() -> None:
    hostile = "ok\n\n# Won\n- **all** [click](http://x) <script>alert(1)</script> ![i](x) `c` | a_b"
    failed = experiment("night-001-1", iteration=1, status="crashed", reason=hostile, hypothesis=hostile)
    markdown = iteration_markdown(Campaign(name="night"), 1, [failed], board_of({}, failed))
    lines = [line for line in markdown.splitlines() if line]
    assert len(lines) == 4  # the title, the experiment, its outcome, no score yet
    for unescaped in ("<script", "](", "**all", "`c", "| a", "a_b", " # "):
        assert not re.search(rf"(?<!\\){re.escape(unescaped)}", "\n".join(lines[1:]))
    assert r"\<script\>alert(1)\</script\>" in markdown


def test_an_iteration_in_markdown_says_scores_reasons_and_the_best() -> None:
    failed = experiment("night-002-2", iteration=2, status="timeout", reason="over 300 s")
    rows, points = anchors()
    rows += [experiment("night-001-1", iteration=1), experiment("night-002-1", iteration=2), failed]
    points += [*curve("night-001-1", "talk", 0.6), *curve("night-002-1", "talk", 0.9)]
    markdown = iteration_markdown(Campaign(name="night"), 2, rows, ranking(rows, points, TARGETS))
    assert markdown.startswith("# night: iteration 2 of 2\n")
    assert "**night-002-1**" in markdown
    assert "→ -10.0% against x265-medium" in markdown
    assert "→ timeout: over 300 s" in markdown
    assert "Best so far: **night-001-1** (av1 preset 6), -40.0%." in markdown
    assert markdown.count("night-001-1") == 1
    assert "- bitrate: missed" in markdown
