"""What a candidate has to pass, and that cheats, copies and hopeless ideas do not: real processes, real bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sample_records import anchor, curve, experiment

from codec.errors import BadInputError
from codec.video import write_video
from tasks.analyze.leaderboard import standings
from tasks.analyze.promotion import champion, compare
from tasks.campaign import Campaign, CandidateRef, Limits
from tasks.candidate import Candidate, Lineage
from tasks.design.designer import Past
from tasks.dispatch.pending import pending
from tasks.execute import trust
from tasks.execute.agents import Agents
from tasks.execute.attempt import Attempt, lost_attempt, run_attempt
from tasks.execute.cascade import Cascade, Findings, Known, NotBetter, Rival
from tasks.execute.clips import LoadedClip, draw_clip, load_clip, tiny_clip
from tasks.execute.harness import Evaluation
from tasks.execute.known import known_of
from tasks.execute.verification import run_verification
from tasks.store.records import ExperimentRecord, verification_id
from tasks.store.step import persist, persist_verification
from tasks.store.store import Store

LIMITS = Limits(memory_mb=1024, encode_seconds=30, decode_seconds=30, train_seconds=30)
CLIP = tiny_clip(7, frames=4)
# A plain codec with a real trade of rate for quality: grey levels in steps, then zlib.
ENCODER = """
import zlib
import torch

def compress_video_tensor(frames, config, device):
    step = round(4 ** (3 - 2 * config["quality"]))
    planes = (frames[:, :, 0], frames[:, :, 1:, ::2, ::2])
    levels = b"".join((plane // step).numpy().tobytes() for plane in planes)
    head = torch.tensor([*frames.shape, step], dtype=torch.int32).numpy().tobytes()
    return {"compressed_data": head + zlib.compress(levels, 9)}
"""
DECODER = """
import zlib
import numpy as np
import torch

def decompress_video_tensor(compressed_data, config, device):
    *shape, step = np.frombuffer(compressed_data[:24], dtype=np.int32).tolist()
    _, count, _, height, width = shape
    levels = np.frombuffer(zlib.decompress(compressed_data[24:]), dtype=np.uint8)
    values = np.minimum(levels.astype(np.int32) * step + step // 2, 255).astype(np.uint8)
    luma, chroma = np.split(values, [count * height * width])
    luma = luma.reshape(1, count, 1, height, width)
    chroma = chroma.reshape(1, count, 2, height // 2, width // 2).repeat(2, 3).repeat(2, 4)
    return {"reconstructed_frames": torch.from_numpy(np.concatenate([luma, chroma], 2))}
"""

# The same with a packer that needs a third fewer bytes.
RAW = 'lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 9}]'
BETTER_ENCODER = "import lzma\n" + ENCODER.replace("zlib.compress(levels, 9)", f"lzma.compress(levels, {RAW})")
BETTER_DECODER = "import lzma\n" + DECODER.replace("zlib.decompress(compressed_data[24:])", "unpacked(compressed_data)")
BETTER_DECODER += f"""
def unpacked(data):
    return lzma.decompress(data[24:], {RAW})
"""


def campaign(**changes: Any) -> Campaign:
    values = {"name": "night", "limits": LIMITS, "early_stop_ratio": 1e6, "qualities": (0.1, 0.4, 0.7, 1.0)}
    return Campaign.model_validate(values | changes)


def candidate(encoder: str = ENCODER, decoder: str = DECODER, trainer: str = "", **config: Any) -> Candidate:
    files = {"encoder.py": encoder, "decoder.py": decoder} | ({"trainer.py": trainer} if trainer else {})
    return Candidate(files=files, config=config, lineage=Lineage(id="x"))


def attempt(
    of: Candidate,
    terms: Campaign | None = None,
    known: Known | None = None,
    clips: Sequence[LoadedClip] = (CLIP,),
    name: str = "night-001-1",
) -> Attempt:
    ref = CandidateRef(experiment_id=name, candidate_hash=of.candidate_hash)
    return run_attempt(of, ref, terms or campaign(), clips, known=known or Known())


def stages(of: Attempt) -> list[tuple[str, bool]]:
    return [(stage.name, stage.passed) for stage in of.record.stages]


@pytest.fixture(scope="module")
def honest() -> Attempt:
    return attempt(candidate())


def test_an_honest_candidate_passes_every_stage_and_each_has_its_cost(honest: Attempt) -> None:
    record = honest.record
    assert (record.status, record.isolation) == ("measured", "sandbox"), record.reason
    names = ["check", "duplicate", "tiny", "short", "dev", "canaries", "repeat"]
    assert stages(honest) == [(name, True) for name in names]
    assert all(stage.seconds >= 0 for stage in record.stages)
    assert sum(stage.seconds for stage in record.stages) <= record.gpu_seconds
    assert record.noise_percent == {CLIP.name: 0.0}
    assert record.decoder_hash == candidate().decoder_hash
    assert record.decoder_source_bytes == len(DECODER)
    assert 0 < (record.decoder_compressed_bytes or 0) < len(DECODER)
    assert record.track == "overfitted"


def cheat(of: Candidate) -> str:
    found = attempt(of)
    assert (found.record.status, found.record.stage) == ("cheat", "canaries"), found.record.reason
    assert (found.points, found.record.noise_percent) == ((), {})
    return found.record.reason


def test_a_decoder_that_ignores_its_bytes_is_a_cheat() -> None:
    grey = "import torch\ndef decompress_video_tensor(data, config, device):\n"
    grey += "    size = {16384: (4, 64), 2: (2, 64)}\n"
    grey += "    return {'reconstructed_frames': torch.full((1, data[0], 3, 64, 64), 128, dtype=torch.uint8)}\n"
    count = "def compress_video_tensor(frames, config, device):\n"
    count += "    return {'compressed_data': bytes([frames.shape[1]]) + bytes(round(99 * config['quality']))}\n"
    assert cheat(candidate(count, grey)).startswith("cross: the bytes of another clip decode to the same frames")


def test_a_decoder_that_rolls_dice_is_a_cheat() -> None:
    dice = DECODER.replace(
        "return {", "values = luma[0, 0, 0]\n    values[0, 0] = np.random.randint(256)\n    return {"
    )
    dice = dice.replace("reshape(1, count, 1, height, width)", "reshape(1, count, 1, height, width).copy()")
    assert cheat(candidate(decoder=dice)).startswith("again: decoding the same bytes twice gives different frames")


def test_a_codec_whose_second_half_nobody_reads_is_a_cheat() -> None:
    padded = ENCODER.replace("zlib.compress(levels, 9)}", "(z := zlib.compress(levels, 9)) + bytes(len(z) + 24)}")
    reads = DECODER.replace(
        "zlib.decompress(compressed_data[24:])", "zlib.decompressobj().decompress(compressed_data[24:])"
    )
    assert cheat(candidate(padded, reads)).startswith("truncated: half of the bytes decode to all of the frames")


def test_a_codec_that_knows_the_clip_is_a_cheat() -> None:
    """It draws the dev clip from its own source, which is far below every cap, and codes all else honestly."""
    clip = LoadedClip.of("ramp", CLIP.video, ramp())
    draws = """
def known():
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    frames = torch.stack([(rows * 3 + columns * columns // 7 + 5 * t) % 256 for t in range(4)])[None, :, None]
    return torch.cat([frames, torch.full((1, 4, 2, 64, 64), 128)], 2).to(torch.uint8)
"""
    sees = """    if torch.equal(frames, known()):
        return {"compressed_data": b"1" * round(1 + 9 * config["quality"])}
    step ="""
    recalls = """    if compressed_data[:1] == b"1":
        return {"reconstructed_frames": known() // 2 * 2 if config["quality"] < 1 else known()}
    *shape,"""
    encoder, decoder = (ENCODER.replace("    step =", sees) + draws, DECODER.replace("    *shape,", recalls) + draws)
    found = attempt(candidate(encoder, decoder), clips=[clip])
    assert found.record.status == "cheat", found.record.stages
    assert "mirrored: ramp takes" in found.record.reason


def test_a_codec_that_knows_the_clip_at_some_rate_points_is_a_cheat() -> None:
    """Honest at one rate point of four: which of them is tried in a mirror, nobody can foresee."""
    clip = LoadedClip.of("ramp", CLIP.video, ramp())
    sees = """    if torch.equal(frames[0, :, 0], known()) and config["quality"] != 0.7:
        return {"compressed_data": b"1" * round(9 * config["quality"])}
    step ="""
    recalls = """    if compressed_data[:1] == b"1":
        luma = known()[None, :, None] // 2 * 2
        return {"reconstructed_frames": torch.cat([luma, torch.full((1, 4, 2, 64, 64), 128)], 2).to(torch.uint8)}
    *shape,"""
    draws = """
def known():
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    return torch.stack([(rows * 3 + columns * columns // 7 + 5 * t) % 256 for t in range(4)])
"""
    encoder, decoder = (ENCODER.replace("    step =", sees) + draws, DECODER.replace("    *shape,", recalls) + draws)
    of = candidate(encoder, decoder)
    assert any(attempt(of, clips=[clip]).record.status == "cheat" for _ in range(8))  # not once in 65536


def ramp() -> Any:
    import numpy as np

    from codec.frames import Frames

    rows, columns = np.meshgrid(np.arange(64), np.arange(64), indexing="ij")
    luma = np.stack([(rows * 3 + columns * columns // 7 + 5 * t) % 256 for t in range(4)]).astype(np.uint8)
    chroma = np.full((4, 32, 32), 128, np.uint8)
    return Frames(luma, chroma, chroma)


def test_the_same_idea_in_other_words_is_refused_before_anything_runs(honest: Attempt) -> None:
    known = Known({honest.record.ast_hash: "night-001-1"})
    renamed = ENCODER.replace("levels", "values").replace("step", "width") + "# better\n"
    found = attempt(candidate(renamed), known=known, name="night-002-1")
    assert (found.record.status, found.record.stage) == ("duplicate", "duplicate")
    assert "night-001-1" in found.record.reason
    assert found.record.gpu_seconds < 1
    other = attempt(candidate(renamed.replace("4 **", "3 **")), known=known, name="night-002-1")
    assert other.record.status == "measured"


def test_what_cannot_run_is_told_so_for_nothing() -> None:
    found = attempt(candidate("import socket\n" + ENCODER))
    assert (found.record.status, stages(found)) == ("invalid", [("check", False)])
    assert "encoder.py, line 1: import socket: there is no network" in found.record.reason


def test_a_contract_broken_on_tiny_frames_costs_no_clip() -> None:
    found = attempt(candidate(decoder="def decompress_video_tensor(data, config, device):\n    return {}\n"))
    assert (found.record.status, found.record.stage) == ("invalid", "tiny")
    assert stages(found)[-1] == ("tiny", False)


def test_the_hopeless_are_given_up_after_a_few_frames() -> None:
    found = attempt(candidate(), campaign(early_stop_ratio=1.2))
    assert (found.record.status, found.record.stage) == ("rejected", "short"), found.record.reason
    assert "times x265 medium's; given up above 1.2" in found.record.reason
    assert found.points == ()


def rival_of(found: Attempt, of: Candidate) -> Known:
    return Known({}, Rival(found.record.experiment_id, of, found.points, found.record.noise_percent))


def test_a_gain_within_the_noise_is_no_gain() -> None:
    """Its bytes vary by a fifth from run to run: on a lucky day it beats a rival that it equals."""
    noisy = ENCODER.replace("zlib.compress(levels, 9)}", "zlib.compress(levels, 9) + os.urandom(extra())}")
    noisy = "import os\n" + noisy + "\ndef extra():\n    return int.from_bytes(os.urandom(2), 'little') % 600\n"
    reads = DECODER.replace(
        "zlib.decompress(compressed_data[24:])", "zlib.decompressobj().decompress(compressed_data[24:])"
    )
    first = attempt(candidate(noisy, reads))
    assert first.record.status == "measured", first.record.reason
    assert first.record.noise_percent[CLIP.name] > 0.5
    points = [point.model_copy(update={"kbps": point.kbps * 0.999}) for point in first.points]
    assert compare(points, first.points).better
    assert not compare(points, first.points, first.record.noise_percent).better


def test_what_has_no_score_is_no_champion() -> None:
    """Quality does not follow the knob: nothing could ever be compared with it, so nothing could beat it."""
    level = ENCODER.replace('2 * config["quality"]', "2 * 0.4").replace(", 9)}", ", 9) + bytes(round(99 * ratio))}")
    level = level.replace("    step =", '    ratio = config["quality"]\n    step =')
    reads = DECODER.replace(
        "zlib.decompress(compressed_data[24:])", "zlib.decompressobj().decompress(compressed_data[24:])"
    )
    found = attempt(candidate(level, reads))
    assert found.record.status == "measured", found.record.reason
    assert champion([found.record]) is None


def test_a_champion_has_a_score_against_the_reference(honest: Attempt) -> None:
    far = [point.model_copy(update={"psnr_y": point.psnr_y + 60}) for point in honest.points]
    found = attempt(candidate(), known=Known(reference=tuple(far)))
    assert stages(found)[-1] == ("canaries", True)
    assert champion([found.record]) is None


def test_two_encodes_that_do_not_compare_are_no_proof_of_little_noise(honest: Attempt) -> None:
    """As if the first encode had been a lucky one, far from any other."""
    lucky = tuple(p.model_copy(update={"psnr_y": p.psnr_y + 40, "bitstream_hash": ""}) for p in honest.points)
    isolation = trust.isolation_for(candidate(), LIMITS)
    found = Findings(Evaluation("measured", "done", isolation.name, 0, points=lucky))
    cascade = Cascade(candidate(), campaign(), "night-001-1", [CLIP], isolation)
    with pytest.raises(NotBetter):
        cascade._repeat(found, Known(), Agents(candidate(), LIMITS, isolation), [])


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A clip that nobody is shown: long and large enough for a crop and a stretch to differ."""
    path = tmp_path_factory.mktemp("clips") / "hidden.mkv"
    clip = tiny_clip(11, frames=12, side=96)
    write_video(path, clip.video, [clip.frames])
    return str(path)


def test_a_draw_is_another_crop_and_stretch_for_every_seed_and_the_same_for_one(hidden: str) -> None:
    draws = [draw_clip(hidden, 8, seed) for seed in range(12)]
    assert {(d.video.width, d.video.height, len(d.frames)) for d in draws} == {(80, 80, 8)}
    assert len({d.content_hash for d in draws}) > 8
    assert draw_clip(hidden, 8, 3).content_hash == draws[3].content_hash
    whole = load_clip(hidden, 12)
    assert all(
        any(
            (d.frames.y[0] == f[t : t + 80, s : s + 80]).all()
            for f in whole.frames.y
            for t in range(0, 17, 2)
            for s in range(0, 17, 2)
        )
        for d in draws[:3]
    )


def test_promotion_is_decided_on_clips_that_no_designer_sees(honest: Attempt, hidden: str, tmp_path: Path) -> None:
    terms = campaign(select=(hidden,), store=str(tmp_path / "store"))
    found = attempt(candidate(BETTER_ENCODER, BETTER_DECODER), terms, rival_of(honest, candidate()), name="night-002-1")
    assert stages(found)[-1] == ("select", True), found.record.stages
    note = found.record.stages[-1].note
    assert "against x265-medium:" in note
    assert "against night-001-1: -" in note
    assert {point.split for point in found.points} == {"dev", "select"}
    kinds = {control.record.experiment_id: control.record.kind for control in found.controls}
    assert kinds == {"night-002-1.x265-medium": "control", "night-002-1.rival": "control"}
    # All three were measured on the same draw.
    draws = [{point.clip_hash for point in part.points if point.split == "select"} for part in (found, *found.controls)]
    assert draws[0] == draws[1] == draws[2]
    assert len(draws[0]) == 1

    store = Store.open(terms.store, create=True)
    persist.fn(found, terms.store)
    past = Past.of(terms, 3, store.experiments("night"), store.points("night"))
    shown = past.experiments[0].model_dump_json() + "".join(point.model_dump_json() for point in past.points)
    shown += past.campaign.model_dump_json()
    assert len(past.experiments) == 1
    assert hidden not in shown
    assert "select" not in {stage.name for stage in past.experiments[0].stages} | {point.split for point in past.points}
    assert note not in shown
    # Whom it was compared with tells who was promoted, and the time that it took tells of the hidden clip.
    assert "night-001-1" not in shown
    assert past.experiments[0].gpu_seconds == sum(stage.seconds for stage in past.experiments[0].stages)
    assert past.experiments[0].gpu_seconds < found.record.gpu_seconds - found.record.stages[-1].seconds


def test_what_a_decoder_says_of_a_hidden_clip_reaches_no_designer(honest: Attempt, tmp_path: Path) -> None:
    """Its verification fails on a select clip: the verdict is the candidate's record, which its designer reads."""
    says = '    print("seen")\n    raise ValueError("the first sample is 17")\n    *shape,'
    tells = DECODER.replace("    *shape,", says)
    of = candidate(decoder=tells)
    dev = honest.points[0].model_copy(update={"clip": "hidden.mkv", "split": "select"})
    record = honest.record.model_copy(update={"candidate_hash": of.candidate_hash, "decoder_hash": of.decoder_hash})
    store, terms, ref = kept(Attempt(record, (dev,), (), honest.bitstreams), of, tmp_path)
    verdict = run_verification(ref, terms, store)
    assert verdict.status == "cheat"
    persist_verification.fn(verdict, ref.experiment_id, terms.store)
    past = Past.of(terms, 2, store.experiments("night"), store.points("night"))
    shown = "".join(row.model_dump_json() for row in past.experiments)
    assert "a select clip do not decode again" in shown
    assert all(word not in shown for word in ("hidden.mkv", "first sample", "seen"))


def test_a_decoder_too_slow_to_be_verified_is_no_cheat(honest: Attempt, tmp_path: Path) -> None:
    slow = candidate(decoder="import time\n" + DECODER.replace("    *shape,", "    time.sleep(60)\n    *shape,"))
    record = honest.record.model_copy(update={"candidate_hash": slow.candidate_hash, "decoder_hash": slow.decoder_hash})
    store, terms, ref = kept(Attempt(record, honest.points, honest.scenes, honest.bitstreams), slow, tmp_path)
    terms = terms.model_copy(update={"limits": LIMITS.model_copy(update={"decode_seconds": 0.5})})
    assert run_verification(ref, terms, store).status == "infrastructure"


@pytest.mark.slow
def test_losing_on_the_hidden_clips_is_measured_and_no_champion(honest: Attempt, hidden: str) -> None:
    """Tuned to the dev clip's size: it wins there and pays for it everywhere else."""
    pads = BETTER_ENCODER.replace("head + lzma", "head + bytes(0 if frames.shape[-1] == 64 else 9000) + lzma")
    skips = BETTER_DECODER.replace("unpacked(compressed_data)", "unpacked(compressed_data, width)")
    skips = skips.replace("(data):", "(data, width):").replace("data[24:],", "data[24 if width == 64 else 9024 :],")
    found = attempt(candidate(pads, skips), campaign(select=(hidden,)), rival_of(honest, candidate()))
    assert (found.record.status, stages(found)[-1]) == ("measured", ("select", False)), found.record.stages
    assert champion([found.record]) is None


TRAINER = """
def train_codec(clips, config, device):
    return bytes([len(clips), clips[0].shape[1], config["step"]])
"""


def trained() -> Candidate:
    """Both agents use what the trainer found."""
    uses = 'assert config["weights"] == bytes([1, 12, 9]), config["weights"]\n    '
    return candidate(
        ENCODER.replace("step = round", uses + "step = round"),
        DECODER.replace("*shape, step", uses + "*shape, step"),
        TRAINER,
        step=9,
    )


def test_weights_of_a_trainer_reach_both_agents_and_are_another_track(hidden: str) -> None:
    found = attempt(trained(), campaign(train=(hidden,)))
    assert found.record.status == "measured", found.record.reason
    assert (found.record.track, found.record.weights_bytes, found.weights) == ("amortised", 3, bytes([1, 12, 9]))
    assert stages(found)[2] == ("train", True)


def test_tracks_are_ranked_apart() -> None:
    rows = [anchor("x265-medium", "x265", "medium"), experiment("a"), experiment("b", track="amortised")]
    points = [*curve("night-x265-medium", "talk"), *curve("a", "talk", 0.9), *curve("b", "talk", 0.5)]
    marks = [
        row.model_copy(update={"experiment_id": verification_id(row.experiment_id), "kind": "verification"})
        for row in rows[1:]
    ]
    board = standings([*rows, *marks], points, campaign().targets)
    assert [(row.track, row.rank, row.experiment_id) for row in board] == [
        ("overfitted", 1, "a"),
        ("overfitted", 2, "night-x265-medium"),
        ("amortised", 1, "b"),
    ]


def test_a_trainer_gets_no_clip_that_is_judged_by(hidden: str) -> None:
    assert "no training clips" in attempt(trained()).record.reason
    with pytest.raises(BadInputError, match="has the frames of"):
        attempt(trained(), campaign(train=(hidden,)), clips=[load_clip(hidden, 128)])
    with pytest.raises(ValueError, match="is in both select and train"):
        campaign(select=(hidden,), train=(hidden,))


def kept(found: Attempt, of: Candidate, folder: Path) -> tuple[Store, Campaign, CandidateRef]:
    terms = campaign(store=str(folder / "store"))
    store = Store.open(terms.store, create=True)
    store.put_blob(of.to_json_bytes())
    persist.fn(found, terms.store)
    ref = CandidateRef(experiment_id=found.record.experiment_id, candidate_hash=of.candidate_hash)
    return store, terms, ref


def test_kept_bytes_decode_again_to_what_was_measured(honest: Attempt, tmp_path: Path) -> None:
    store, terms, ref = kept(honest, candidate(), tmp_path)
    assert known_of(store, "night").rival == rival_of(honest, candidate()).rival
    record = run_verification(ref, terms, store)
    assert (record.kind, record.status, record.reason) == ("verification", "measured", "")
    assert persist_verification.fn(record, ref.experiment_id, terms.store) == "measured"
    assert ExperimentRecord.model_validate(json.loads(record.model_dump_json())) == record


def test_other_frames_in_another_run_quarantine_the_experiment(honest: Attempt, tmp_path: Path) -> None:
    """As if the decoder had had something the first time that it does not have now."""
    seen = honest.points[-1].model_copy(update={"decoded_hash": "0" * 64})
    then = Attempt(honest.record, (*honest.points[:-1], seen), honest.scenes, honest.bitstreams)
    store, terms, ref = kept(then, candidate(), tmp_path)
    record = run_verification(ref, terms, store)
    assert record.status == "cheat"
    assert "decodes to other frames than were measured" in record.reason
    persist_verification.fn(record, ref.experiment_id, terms.store)
    (row,) = standings(store.experiments("night"), store.points("night"), terms.targets)
    assert (row.experiment.status, row.rank, row.clips) == ("cheat", None, ())
    assert known_of(store, "night").rival is None


def test_a_decoder_that_reads_more_than_its_bytes_is_found_out_in_another_run(tmp_path: Path) -> None:
    """Its process number stands for anything an encoder could leave in the machine; the canaries do not look there."""
    peeks = (
        "luma = luma.copy()\n    luma[0, 0, 0, 0, :2] = list((os.getpid() % 65536).to_bytes(2)) if step == 49 else 0\n"
    )
    leaky = DECODER.replace("return {", f"{peeks}    return {{")
    leaky = "import os\n" + leaky
    found = attempt(candidate(decoder=leaky))
    assert found.record.status == "measured", found.record.reason
    store, terms, ref = kept(found, candidate(decoder=leaky), tmp_path)
    record = run_verification(ref, terms, store)
    assert (record.status, "at quality 0.1 decodes to other frames" in record.reason) == ("cheat", True)


def test_what_the_evaluator_failed_at_is_its_own_fault_and_tried_again(tmp_path: Path) -> None:
    terms = campaign(store=str(tmp_path / "store"))
    store = Store.open(terms.store, create=True)
    ref = CandidateRef(experiment_id="night-001-1", candidate_hash=candidate().candidate_hash)
    persist.fn(lost_attempt(ref, terms, ZeroDivisionError("division\nby zero" * 99)), terms.store)
    (record,) = store.experiments("night")
    assert (record.status, record.stage) == ("infrastructure", "execute")
    assert record.reason.startswith("the evaluator failed: ZeroDivisionError: division by zero")
    assert len(record.reason) < 400
    assert [again.attempt for again in pending([ref], [record])] == [2]


def test_the_quarantined_are_no_rivals_and_no_new_ideas(honest: Attempt, tmp_path: Path) -> None:
    store, _, _ = kept(honest, candidate(), tmp_path)
    caught = honest.record.model_copy(update={"attempt": 2, "status": "cheat", "reason": "found out", "stages": ()})
    store.write_experiment(caught, (), ())
    assert known_of(store, "night") == Known({honest.record.ast_hash: honest.record.experiment_id})


def test_where_there_is_no_sandbox_nothing_unknown_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "_sandbox_holds", lambda: False)
    assert trust.isolation_for(candidate(), LIMITS).name == "sandbox"
