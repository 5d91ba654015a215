"""The store: where records, candidates and bitstreams are kept, in a local folder or under an S3 prefix.

Invariants:
- an experiment is its points and scenes first and its experiment row last: the row is the commit mark, and points or
  scenes without a `measured` row of the same id and attempt are not read;
- append-only: an id and attempt that has its row is never written again, by anyone;
- all rows of one id and attempt lie in one file of each table, so whoever meets an attempt in two files reads one of
  them;
- nothing of a file is believed before it was checked: rows by their model, blobs by their hash.

    schema=1/experiments/campaign=<name>/<experiment_id>-<attempt>.parquet     and compact-<hash>.parquet
    schema=1/points/…    schema=1/scenes/…                                      the same names
    schema=1/imported/campaign=<name>/<hash>.parquet                            one import
    blobs/<hash[:2]>/<hash>                                                     SHA-256 of the content
    campaigns/<name>/campaign.json
    campaigns/<name>/designs/<iteration>.json
    campaigns/<name>/answers/<key>.json                                         what a language model answered, raw

`pandas.read_parquet("<root>/schema=1/points")` reads a table without this module; it also sees what an interrupted
writer left uncommitted, and may see rows twice while `compact` runs: join on experiment_id and attempt.
How rows become parquet is `tasks.store.tables`'; whole files on a disk or on S3 are `tasks.store.files`'.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from pydantic import TypeAdapter, ValidationError

from codec.errors import StoreError
from tasks.campaign import CAMPAIGN_NAME, Campaign, CandidateRef
from tasks.store.files import Files, NameMissingError, NameTakenError
from tasks.store.records import SCHEMA_VERSION, ExperimentRecord, ImportedRecord, PointRecord, SceneRecord
from tasks.store.tables import MODELS, PARTITION, Entry, Key, Record, from_parquet, to_parquet

FILE_STEM: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
SHA256: Final = re.compile(r"[0-9a-f]{64}")
DESIGN: Final = TypeAdapter(tuple[CandidateRef, ...])
# A listing goes stale only while somebody compacts; one that keeps going stale has another reason.
MAX_LISTINGS: Final = 20
COMPACT: Final = "compact-"


class Store:
    """Use `Store.open`. Holds no state but a memory of experiment files, which never change."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._experiment_files: dict[str, list[Entry]] = {}

    @classmethod
    def open(cls, uri: str, *, create: bool = False) -> Store:
        """The store at a folder or at s3://bucket/prefix (S3 settings come from the usual AWS environment).

        With `create` the place is made and probed. Raises StoreError, in one line with the remedy, where it cannot be
        written to, a file is in the way, the bucket is missing or no credentials are found.
        """
        files = Files(uri)
        if create:
            files.check_writable()
        return cls(files)

    # Records

    def write_experiment(
        self, experiment: ExperimentRecord, points: Sequence[PointRecord], scenes: Sequence[SceneRecord]
    ) -> None:
        """Keep one attempt. Raises StoreError where that id and attempt is on record."""
        campaign = experiment.campaign
        stem = f"{experiment.experiment_id}-{experiment.attempt}"
        if not FILE_STEM.fullmatch(stem):
            raise StoreError(f"{experiment.experiment_id!r} cannot name a file: use letters, digits, '.', '_' and '-'")
        hanging: list[PointRecord | SceneRecord] = [*points, *scenes]
        for record in hanging:
            if (record.campaign, record.experiment_id) != (campaign, experiment.experiment_id):
                raise StoreError(f"{record.experiment_id} of {record.campaign} is no part of {stem} of {campaign}")
        if experiment.status != "measured" and hanging:
            raise StoreError(f"{stem} is {experiment.status}, not measured: it cannot have points or scenes")
        if self._is_compacted(campaign, (experiment.experiment_id, experiment.attempt)):
            raise StoreError(_on_record(campaign, stem))
        for table, records in (("points", points), ("scenes", scenes)):
            if records:
                entries = [Entry(experiment.attempt, record) for record in records]
                self._files.put(_path(table, campaign, stem), to_parquet(table, entries))
        row = to_parquet("experiments", [Entry(experiment.attempt, experiment)])
        try:
            self._files.create(_path("experiments", campaign, stem), row)
        except NameTakenError as error:
            raise StoreError(_on_record(campaign, stem)) from error

    def experiments(self, campaign: str | None = None) -> list[ExperimentRecord]:
        """Every attempt on record, by the time it started."""
        found = [
            entry.record
            for name in self._campaigns_of("experiments", campaign)
            for entry in self._entries("experiments", name)
            if isinstance(entry.record, ExperimentRecord)
        ]
        return sorted(found, key=lambda record: (record.started_at, record.experiment_id, record.attempt))

    def points(self, campaign: str | None = None) -> list[PointRecord]:
        """The rate points of all measured experiments, by campaign, experiment, clip and quality."""
        found = [record for record in self._of_measured("points", campaign) if isinstance(record, PointRecord)]
        return sorted(found, key=lambda point: (point.campaign, point.experiment_id, point.clip, point.quality))

    def scenes(self, campaign: str | None = None) -> list[SceneRecord]:
        """The scenes of all measured experiments, by campaign, experiment, clip, quality and number."""
        found = [record for record in self._of_measured("scenes", campaign) if isinstance(record, SceneRecord)]
        return sorted(found, key=lambda row: (row.campaign, row.experiment_id, row.clip, row.quality, row.scene))

    def write_imported(self, records: Sequence[ImportedRecord]) -> None:
        """Keep what one import of one campaign brought, in one file. What is on record already is read once only."""
        if not records:
            return
        data = to_parquet("imported", [Entry(record.attempt, record) for record in records])
        self._files.put(_path("imported", records[0].campaign, hashlib.sha256(data).hexdigest()), data)

    def imported(self, campaign: str | None = None) -> list[ImportedRecord]:
        """Every version of every experiment moved in, by its id."""
        found = [
            entry.record
            for name in self._campaigns_of("imported", campaign)
            for entry in self._entries("imported", name)
            if isinstance(entry.record, ImportedRecord)
        ]
        return sorted(found, key=lambda record: (record.campaign, record.experiment_id, record.attempt))

    def compact(self, campaign: str) -> None:
        """Merge the small files of each table into one. Safe while others read and write.

        The merged file is complete before the first small one goes. A reader that meets an attempt in both takes one
        of them; one whose listing names a file that is gone lists again. Files of attempts that are not committed stay.
        """
        committed = self._keys(campaign)
        for table in MODELS:
            if table == "imported":
                continue  # hangs on no experiment, and an import is one file already
            files = self._read_files(table, campaign)
            merged = {path: rows for path, rows in files.items() if {row.key for row in rows} <= committed}
            if len(merged) < 2:
                continue
            data = to_parquet(table, _once(merged))
            target = _path(table, campaign, f"{COMPACT}{hashlib.sha256(data).hexdigest()}")
            self._files.put(target, data)
            for path in merged:
                if path != target:
                    self._files.remove(path)

    # Blobs

    def put_blob(self, data: bytes) -> str:
        """Keep `data` under its SHA-256, which is returned."""
        digest = hashlib.sha256(data).hexdigest()
        if not self._files.exists(_blob(digest)):
            self._files.put(_blob(digest), data)
        return digest

    def get_blob(self, digest: str) -> bytes:
        """Raises StoreError where there is none of that hash, or its bytes have changed."""
        if not SHA256.fullmatch(digest):
            raise StoreError(f"{digest!r} is not a SHA-256 in hexadecimal")
        where = self._files.where(_blob(digest))
        try:
            (data,) = self._files.read([_blob(digest)])
        except NameMissingError as error:
            raise StoreError(f"{where}: no such blob; was it kept in another store?") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise StoreError(f"{where}: its bytes have changed since they were kept; restore it from a copy")
        return data

    # Campaigns

    def campaigns(self) -> list[str]:
        """Names of all campaigns that have terms or records here."""
        tables = (*self._campaigns_of("experiments", None), *self._campaigns_of("imported", None))
        named = {*self._files.names("campaigns"), *tables}
        return sorted(name for name in named if re.fullmatch(CAMPAIGN_NAME, name))  # others are not ours

    def write_campaign(self, campaign: Campaign) -> None:
        """Keep the terms of a campaign, replacing those of before."""
        self._files.put(f"campaigns/{campaign.name}/campaign.json", campaign.model_dump_json(indent=2).encode())

    def read_campaign(self, name: str) -> Campaign | None:
        path = f"campaigns/{_checked(name)}/campaign.json"
        try:
            (terms,) = self._files.read([path])
            return Campaign.model_validate_json(terms)
        except NameMissingError:
            return None
        except ValidationError as error:
            raise StoreError(f"{self._files.where(path)}: not the terms of a campaign: {_problem(error)}") from error

    def write_design(self, campaign: str, iteration: int, refs: tuple[CandidateRef, ...]) -> None:
        """Keep what an iteration is to measure. Raises StoreError where that iteration is designed already."""
        path = f"{_designs(campaign)}/{iteration:04d}.json"
        try:
            self._files.create(path, DESIGN.dump_json(refs, indent=2))
        except NameTakenError as error:
            raise StoreError(f"{self._files.where(path)}: iteration {iteration} is designed already") from error

    def designs(self, campaign: str) -> dict[int, tuple[CandidateRef, ...]]:
        """The candidates of each iteration designed so far."""
        found: dict[int, tuple[CandidateRef, ...]] = {}
        for name in self._files.names(_designs(campaign)):
            path = f"{_designs(campaign)}/{name}"
            try:
                (design,) = self._files.read([path])
                found[int(name.removesuffix(".json"))] = DESIGN.validate_json(design)
            except ValidationError as error:
                raise StoreError(f"{self._files.where(path)}: not a design: {_problem(error)}") from error
            except ValueError as error:
                raise StoreError(f"{self._files.where(path)}: not a design's file; move it away") from error
        return found

    def write_answer(self, campaign: str, key: str, data: bytes) -> None:
        """Keep a language model's raw answer, which was paid for. Raises StoreError where that key has one."""
        path = _answer(campaign, key)
        try:
            self._files.create(path, data)
        except NameTakenError as error:
            raise StoreError(f"{self._files.where(path)}: this answer is kept already") from error

    def read_answer(self, campaign: str, key: str) -> bytes | None:
        try:
            (data,) = self._files.read([_answer(campaign, key)])
        except NameMissingError:
            return None
        return data

    # Reading tables

    def _campaigns_of(self, table: str, campaign: str | None) -> list[str]:
        if campaign is not None:
            return [_checked(campaign)]
        prefix = f"{PARTITION}="
        folders = self._files.names(f"schema={SCHEMA_VERSION}/{table}")
        return [folder.removeprefix(prefix) for folder in folders if folder.startswith(prefix)]

    def _keys(self, campaign: str) -> set[Key]:
        return {entry.key for entry in self._entries("experiments", campaign)}

    def _of_measured(self, table: str, campaign: str | None) -> Iterator[Record]:
        for name in self._campaigns_of(table, campaign):
            # The commit marks are read first: whatever hangs on them was there before them.
            marks = self._entries("experiments", name)
            measured = {entry.key for entry in marks if getattr(entry.record, "status", "") == "measured"}
            yield from (entry.record for entry in self._entries(table, name) if entry.key in measured)

    def _entries(self, table: str, campaign: str) -> list[Entry]:
        return _once(self._read_files(table, campaign))

    def _read_files(self, table: str, campaign: str) -> dict[str, list[Entry]]:
        """Entries by file, as if read at one moment although others write and compact meanwhile."""
        folder = _folder(table, campaign)
        listing = self._listing(folder)
        for _ in range(MAX_LISTINGS):
            try:
                files = self._read_listed(table, campaign, listing)
            except NameMissingError:
                listing = self._listing(folder)
                continue
            # A listing that is taken while somebody compacts may have missed both a small file and the merged one.
            again = self._listing(folder)
            compacted = any(path.startswith(f"{folder}/{COMPACT}") for path in set(again) - set(listing))
            if set(listing) <= set(again) and not compacted:
                return files
            listing = again
        raise StoreError(f"{self._files.where(folder)}: its files keep vanishing; what else deletes there?")

    def _listing(self, folder: str) -> list[str]:
        return [f"{folder}/{name}" for name in self._files.names(folder) if name.endswith(".parquet")]

    def _read_listed(self, table: str, campaign: str, paths: Sequence[str]) -> dict[str, list[Entry]]:
        new = [path for path in paths if path not in self._experiment_files]
        read = {
            path: from_parquet(table, campaign, data, self._files.where(path))
            for path, data in zip(new, self._files.read(new), strict=True)
        }
        if table == "experiments":
            self._experiment_files.update(read)
        return {path: read[path] if path in read else self._experiment_files[path] for path in paths}

    def _is_compacted(self, campaign: str, key: Key) -> bool:
        """An attempt that lies in a merged file no longer has a file of its own to be in a second writer's way."""
        folder = _folder("experiments", campaign)
        merged = [path for path in self._listing(folder) if path.startswith(f"{folder}/{COMPACT}")]
        files = self._read_listed("experiments", campaign, merged)
        return any(entry.key == key for entries in files.values() for entry in entries)


def _once(files: Mapping[str, list[Entry]]) -> list[Entry]:
    """The entries of all files, each attempt's from the first file that has it."""
    owner: dict[Key, str] = {}
    return [entry for path, entries in files.items() for entry in entries if owner.setdefault(entry.key, path) == path]


def _on_record(campaign: str, stem: str) -> str:
    return f"{stem} of campaign {campaign} is on record already, and records are never changed: raise its attempt"


def _folder(table: str, campaign: str) -> str:
    return f"schema={SCHEMA_VERSION}/{table}/{PARTITION}={_checked(campaign)}"


def _path(table: str, campaign: str, stem: str) -> str:
    return f"{_folder(table, campaign)}/{stem}.parquet"


def _blob(digest: str) -> str:
    return f"blobs/{digest[:2]}/{digest}"


def _designs(campaign: str) -> str:
    return f"campaigns/{_checked(campaign)}/designs"


def _answer(campaign: str, key: str) -> str:
    if not FILE_STEM.fullmatch(key):
        raise StoreError(f"{key!r} cannot name a file: use letters, digits, '.', '_' and '-'")
    return f"campaigns/{_checked(campaign)}/answers/{key}.json"


def _checked(campaign: str) -> str:
    if not re.fullmatch(CAMPAIGN_NAME, campaign):
        raise StoreError(f"{campaign!r} is no name of a campaign: use letters, digits, '.', '_' and '-'")
    return campaign


def _problem(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
