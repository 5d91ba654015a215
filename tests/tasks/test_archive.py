"""The archive: who may have children, what the next candidate should be, what is near to it, and what was tried."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from sample_records import anchor, curve, experiment

from tasks.analyze.leaderboard import standings
from tasks.analyze.outcomes import foresight, foresight_text, improvements
from tasks.campaign import Campaign, CandidateRef, Targets
from tasks.candidate import Candidate, Lineage
from tasks.design.archive import PLATEAU, QUOTAS, Archive, choose_parent, nearest_failures, rivals, turns
from tasks.design.designer import Past
from tasks.design.duplicates import duplicates, refusal, similarity
from tasks.design.population import SEEDS
from tasks.store.records import ExperimentRecord, PointRecord
from tasks.store.store import Store


class Story:
    """A campaign that is told one experiment at a time."""

    def __init__(self) -> None:
        self.records = [anchor("x265-medium", "x265", "medium")]
        self.points: list[PointRecord] = []
        for clip in ("talk", "screen"):
            self.points += curve("night-x265-medium", clip)

    def tried(
        self,
        name: str,
        talk: float | None = None,
        screen: float | None = None,
        *,
        decode_fps: float = 200.0,
        tera_ops: float | None = None,
        **changes: Any,
    ) -> Story:
        """Measured where there are factors of the anchor's bitrate, `screen` like `talk` unless given; else crashed."""
        status = changes.pop("status", "crashed" if talk is None else "measured")
        self.records.append(experiment(name, minutes=len(self.records), status=status, **changes))
        if talk is not None:
            made = {"decode_fps": decode_fps, "tera_ops_per_frame": tera_ops}
            self.points += curve(name, "talk", talk, **made)
            self.points += curve(name, "screen", talk if screen is None else screen, **made)
        return self

    @property
    def past(self) -> Past:
        campaign = Campaign(name="night", clips=("talk", "screen"))
        return Past(campaign, len(self.records), tuple(self.records), tuple(self.points))

    @property
    def archive(self) -> Archive:
        return Archive.of(self.past)


def ids(records: list[ExperimentRecord]) -> list[str]:
    return [record.experiment_id for record in records]


# Fronts and parents


def test_a_front_is_by_clip_and_of_rate_operations_and_decode_time() -> None:
    story = Story()
    story.tried("talker", 0.7, 0.95).tried("screener", 0.9, 0.6).tried("both", 0.8, 0.8)
    story.tried("fast", 1.2, decode_fps=900.0).tried("net", 0.5, tera_ops=0.3).tried("worse net", 0.55, tera_ops=0.4)
    fronts = {entry.experiment_id: entry.fronts for entry in story.archive.entries.values()}
    assert fronts == {
        "talker": ("talk",),
        "screener": ("screen",),
        "both": (),  # beaten on each clip by a specialist
        "fast": ("screen", "talk"),
        "net": ("screen", "talk"),
        "worse net": (),
    }
    assert story.archive.front[0].experiment_id == "net"


def test_a_few_percent_of_decode_time_make_no_front() -> None:
    story = Story().tried("good", 0.7, decode_fps=200.0).tried("bad", 0.9, decode_fps=205.0)
    assert [entry.experiment_id for entry in story.archive.front] == ["good"]


def test_what_failed_or_ran_without_isolation_is_no_parent() -> None:
    story = (
        Story().tried("crashed").tried("cheat", status="cheat").tried("open", 0.1, isolation="none").tried("ok", 0.9)
    )
    assert list(story.archive.entries) == ["ok"]


def test_parents_are_drawn_by_membership_over_children() -> None:
    story = Story().tried("all", 0.7).tried("talk only", 0.6, 0.9).tried("busy", 1.2, decode_fps=900.0)
    for child in range(3):
        story.tried(f"child {child}", parents=("busy",))
    story.tried("lost child", parents=("all",), status="infrastructure")
    archive = story.archive
    weights = {entry.experiment_id: entry.weight for entry in archive.front}
    assert weights == {"all": 1.0, "talk only": 1.0, "busy": 0.5}  # on 1, 1 and 2 of 2 fronts; "busy" has 3 children
    draw = random.Random(5)
    drawn = Counter(choose_parent(archive, draw).experiment_id for _ in range(5000))  # type: ignore[union-attr]
    for name, weight in weights.items():
        assert drawn[name] / 5000 == pytest.approx(weight / 2.5, abs=0.03)


def test_nothing_measured_has_no_parent() -> None:
    assert choose_parent(Story().tried("crashed").archive, random.Random(0)) is None


# Turns


def test_the_same_past_and_seed_give_the_same_turns() -> None:
    past = Story().tried("a", 0.7, 0.9).tried("b", 0.9, 0.7).tried("c").past
    assert turns(past, 6, seed=3) == turns(past, 6, seed=3)
    assert any(turns(past, 6, seed=3) != turns(past, 6, seed=other) for other in range(4, 9))


def test_the_first_turns_are_drafts_and_later_ones_keep_the_quotas() -> None:
    story = Story()
    assert [turn.change_class for turn in turns(story.past, 3)] == ["draft"] * 3
    source = random.Random(1)
    while len(story.records) < 61:
        (turn,) = turns(story.past, 1, plateau=1000)
        outcome = None if source.random() < 0.3 else source.uniform(0.5, 1.1)
        name = f"night-{len(story.records):03d}-1"
        story.tried(name, outcome, source.uniform(0.5, 1.1), change_class=turn.change_class, parents=turn.parents)
    made = Counter(record.change_class for record in story.records[1:])
    for change_class, share in QUOTAS.items():
        assert made[change_class] / 60 == pytest.approx(share, abs=0.06), made
    for record in story.records[1:]:
        assert len(record.parents) == {"draft": 0, "crossover": 2}.get(record.change_class, 1)


def test_one_batch_spreads_over_parents() -> None:
    story = Story().tried("a", 0.7, 0.9, change_class="draft").tried("b", 0.9, 0.7, change_class="draft")
    found = turns(story.past, 8, quotas={"improve": 1.0})
    assert Counter(turn.parents[0] for turn in found).most_common()[0][1] <= 6
    assert {turn.parents[0] for turn in found} == {"a", "b"}


def test_a_plateau_forces_a_draft_once_and_again_after_another_plateau() -> None:
    story = Story().tried("best", 0.5, change_class="draft")
    forced = []
    for number in range(2 * PLATEAU + 2):
        (turn,) = turns(story.past, 1, quotas={"improve": 1.0})
        forced.append(turn.forced)
        assert turn.forced == (turn.change_class == "draft")
        story.tried(f"try {number:02d}", 0.6, change_class=turn.change_class, parents=turn.parents)
    assert [number for number, is_forced in enumerate(forced) if is_forced] == [PLATEAU, 2 * PLATEAU]


def test_an_improvement_ends_a_plateau_and_a_gain_within_the_noise_does_not() -> None:
    story = Story().tried("best", 0.5)
    for number in range(PLATEAU):
        story.tried(f"try {number}", 0.6, change_class="improve")
    noisy = story.tried("within noise", 0.499, change_class="improve", noise_percent={"talk": 0.5})
    assert len(noisy.archive.stale) == PLATEAU + 1
    assert turns(noisy.past, 1)[0].forced
    better = story.tried("better", 0.4, change_class="improve")
    assert better.archive.better == ("best", "better")
    assert better.archive.stale == ()
    assert not turns(better.past, 1)[0].forced


def test_what_the_infrastructure_lost_is_no_failure_of_an_idea() -> None:
    story = Story().tried("best", 0.5)
    for number in range(PLATEAU):
        story.tried(f"lost {number}", status="infrastructure", change_class="improve")
    assert story.archive.stale == ()
    assert turns(story.past, 1, quotas={"repair": 1.0})[0].change_class == "draft"  # nothing is there to repair


def test_a_failure_is_repaired_twice_at_most_and_a_cheat_never() -> None:
    story = Story().tried("cheat", status="cheat").tried("broken", reason="IndexError: 7")
    for number in range(2):
        (turn,) = turns(story.past, 1, quotas={"repair": 1.0})
        assert turn.change_class == "repair"
        assert "crashed" in turn.why
        story.tried(f"repair {number}", change_class="repair", parents=turn.parents)
    assert turns(story.past, 1, quotas={"repair": 1.0})[0].change_class == "draft"


def test_a_mended_failure_is_left_alone() -> None:
    story = Story().tried("broken").tried("mended", 0.8, change_class="repair", parents=("broken",))
    assert turns(story.past, 1, quotas={"repair": 1.0})[0].change_class == "draft"


def test_a_crossover_is_of_two_lines() -> None:
    story = Story().tried("a", 0.7, 0.95).tried("a child", 0.71, 0.9, parents=("a",)).tried("b", 0.95, 0.6)
    for seed in range(20):
        (turn,) = turns(story.past, 1, seed, quotas={"crossover": 1.0})
        assert turn.change_class == "crossover"
        assert "b" in turn.parents
        assert len(set(turn.parents)) == 2


# Rivals and failures


def test_rivals_of_another_line_come_first() -> None:
    story = Story().tried("a", 0.7, 0.95).tried("b", 0.95, 0.6)
    story.tried("a child", 0.75, 0.9, parents=("a",), decode_fps=900.0).tried("off the front", 0.99)
    assert [entry.experiment_id for entry in rivals(story.archive, "a")] == ["b", "a child"]


def test_the_nearest_failures_are_the_parents_own_then_the_latest() -> None:
    story = Story().tried("other").tried("a", 0.7).tried("a1", parents=("a",)).tried("a2", 0.9, parents=("a",))
    story.tried("a21", status="timeout", parents=("a2",)).tried("late").tried("twin", status="duplicate")
    assert ids(nearest_failures(story.archive, "a")) == ["a1", "a21", "late", "other"]
    assert ids(nearest_failures(story.archive, "a", 1)) == ["a1"]


def test_code_goes_before_kin() -> None:
    story = Story().tried("far").tried("a", 0.7).tried("kin", parents=("a",))
    sources = {"a": seed(), "far": seed(config={"preset": "4"}), "kin": small("x = frames.sum()")}
    assert ids(nearest_failures(story.archive, "a", sources=sources)) == ["far", "kin"]


# Duplicates


def seed(name: str = "seed", **changes: Any) -> Candidate:
    return Candidate.load(SEEDS / "evocodec").model_copy(update={"lineage": Lineage(id=name), **changes})


DECODER = '''
import zlib
import numpy


def unpack(data: bytes, scale: float):
    """Bytes to samples."""
    values = numpy.frombuffer(zlib.decompress(data), dtype="uint8")
    return values * scale + 0.5


def shaped(values, height, width):
    frames = values.reshape(-1, height, width, 3)
    for index in range(len(frames)):
        frames[index] = numpy.clip(frames[index] - 16, 0, 219) / 219
    return frames


def decompress_video_tensor(data, config, device):
    height, width = int(data[0]) * 16, int(data[1]) * 16
    values = unpack(data[2:], config["scale"])
    return {"reconstructed_frames": shaped(values, height, width)}
'''


def small(encoding: str = "x = frames", decoder: str = DECODER, **config: Any) -> Candidate:
    encoder = (
        f"def compress_video_tensor(frames, config, device):\n    {encoding}\n    return dict(compressed_data=x)\n"
    )
    return Candidate(files={"encoder.py": encoder, "decoder.py": decoder}, config=config, lineage=Lineage(id="-"))


def moved(source: str) -> str:
    head, first, second, last = source.split("\n\n\n")
    return "\n\n\n".join((head, second, first, last))


@pytest.mark.parametrize(
    "decoder",
    [
        DECODER.replace("values", "samples").replace("Bytes to samples", "From bytes"),
        moved(DECODER),
        DECODER.replace("unpack", "expand").replace("shaped", "as_frames"),
        DECODER.replace("    frames = ", "    assert len(values) > 0\n    print('shaping')\n    frames = "),
        DECODER.replace("for index", "pass\n    for index").replace("data: bytes, scale: float", "data, scale"),
    ],
    ids=["renamed variables", "moved functions", "renamed functions", "checks and prints", "annotations"],
)
def test_the_same_idea_in_other_words_is_refused(decoder: str) -> None:
    assert decoder != DECODER
    reason = refusal(small(decoder=decoder), {"night-001-1": small(), "night-001-2": small("x = frames[::2]")})
    assert "same" in reason
    assert "night-001-1" in reason


@pytest.mark.parametrize(
    "changes",
    [
        ("16, 0, 219", "15, 0, 219"),
        ("scale + 0.5", "scale - 0.5"),
        ("numpy.clip", "numpy.fmin"),
        ('"uint8"', '"int16"'),
        ("    return frames\n", "    return frames.copy()\n"),
        ("range(len(frames))", "range(1, len(frames))"),
    ],
)
def test_one_constant_operator_or_function_changed_is_another_experiment(changes: tuple[str, str]) -> None:
    decoder = DECODER.replace(*changes)
    assert decoder != DECODER
    assert refusal(small(decoder=decoder), {"night-001-1": small()}) == ""


def test_the_same_code_under_another_config_is_another_experiment() -> None:
    assert refusal(small(scale=2), {"night-001-1": small(scale=1)}) == ""
    assert "night-001-1" in refusal(small(scale=1), {"night-001-1": small(scale=1)})


def test_similarity_is_of_what_is_said() -> None:
    assert similarity(seed(), seed()) == 1.0
    assert similarity(small(), small(decoder=moved(DECODER))) == 1.0
    assert 0.8 < similarity(small(), small(decoder=DECODER.replace("219", "235"))) < 1.0
    assert similarity(seed(), small()) < 0.3
    assert similarity(small(), small(decoder="def (")) < 0.3  # what can be parsed is compared


def test_what_cannot_be_parsed_is_for_the_check_to_say() -> None:
    broken = small(decoder="def (")
    assert refusal(broken, {"night-001-1": small(), "night-001-2": broken}) == ""


def test_a_duplicate_is_recorded_before_it_travels_and_only_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    store = Store.open(str(tmp_path_factory.mktemp("store")), create=True)

    def ref(number: int, candidate: Candidate, iteration: int = 2) -> CandidateRef:
        digest = store.put_blob(candidate.to_json_bytes())
        name = f"night-{iteration:03d}-{number}"
        return CandidateRef(experiment_id=name, candidate_hash=digest, iteration=iteration)

    old, lost = ref(1, small(), 1), ref(2, small("x = frames[1:]"), 1)
    store.write_experiment(experiment(old.experiment_id, status="crashed", candidate_hash=old.candidate_hash), (), ())
    store.write_experiment(
        experiment(lost.experiment_id, status="infrastructure", candidate_hash=lost.candidate_hash), (), ()
    )
    new = [
        ref(1, small(decoder=moved(DECODER))),  # of the crashed one
        ref(2, small("x = frames[1:]")),  # of the one that was never run
        ref(3, small("x = frames[2:]")),
        ref(4, small("x = frames[2:]  # again")),  # of its own batch
    ]
    found = duplicates(store, "night", new, store.experiments("night"))
    assert [(record.experiment_id, record.status, record.gpu_seconds) for record in found] == [
        ("night-002-1", "duplicate", 0.0),
        ("night-002-4", "duplicate", 0.0),
    ]
    assert "night-001-1" in found[0].reason
    assert "night-002-3" in found[1].reason
    for record in found:
        store.write_experiment(record, (), ())
    assert duplicates(store, "night", new, store.experiments("night")) == []


# Outcomes


def test_predictions_are_scored_against_what_was_measured() -> None:
    story = Story()
    story.tried("draft", 0.8, predicted_bd_rate_percent=-30.0, predicted_tera_ops_per_frame=0.2, tera_ops=0.5)
    story.tried("gain", 0.7, parents=("draft",), predicted_bd_rate_percent=-40.0)  # better, as it said, and less so
    story.tried("loss", 0.9, parents=("draft",), predicted_bd_rate_percent=-25.0)  # worse than its parent: wrong side
    story.tried("broken", parents=("draft",), predicted_bd_rate_percent=-90.0).tried("silent", 0.6)
    board = standings(story.records, story.points, Targets())
    rate, operations = foresight(board)
    assert (rate.quantity, rate.count, rate.directions, rate.hits) == ("BD-rate", 3, 3, 2)
    assert rate.mean_absolute_error == pytest.approx((10 + 10 + 15) / 3, abs=0.01)
    assert rate.bias == pytest.approx((10 + 10 + 15) / 3, abs=0.01)
    assert (operations.count, operations.bias) == (1, pytest.approx(0.3))
    assert "3 predictions, off by 11.67 % on average, bias +11.67 %, direction right in 2 of 3" in foresight_text(board)
    assert improvements(board) == ("draft", "gain", "silent")


def test_nothing_predicted_is_nothing_to_say() -> None:
    story = Story().tried("a", 0.8)
    assert foresight_text(standings(story.records, story.points, Targets())) == ""
