"""Progress of a run as a Prefect artifact: the UI shows it, and the command line follows it from there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException
from prefect.logging import get_logger

from tasks.analyze.summary import artifact_key

if TYPE_CHECKING:
    from tasks.execute.harness import Progress

# Often enough for a person to follow, seldom enough for SQLite.
UPDATE_SECONDS = 1.0


class ProgressArtifact:
    """One progress artifact of the current flow run. Losing an update is logged; it never stops the work."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._id: UUID | None = None
        self._last = 0.0
        self._lock = threading.Lock()
        self.update(0.0, "starting", force=True)

    def update(self, fraction: float, text: str, *, force: bool = False) -> None:
        """`fraction` in [0, 1]. Called from any thread; updates that come too fast are dropped unless forced."""
        now = time.monotonic()
        with self._lock:
            if not force and now - self._last < UPDATE_SECONDS:
                return
            self._last = now
        percent = round(100 * fraction, 1)
        try:
            if self._id is None:
                self._id = cast(UUID, create_progress_artifact(percent, key=self._key, description=text))
            else:
                update_progress_artifact(self._id, progress=percent, description=text)
        except (PrefectException, httpx.HTTPError) as error:
            get_logger("evocodec").warning("progress was not reported: %s", error)


class BatchProgress:
    """One artifact for a run that works on several experiments one after the other."""

    def __init__(self, campaign: str, experiment_ids: Sequence[str]) -> None:
        self._ids = list(experiment_ids)
        self._artifact = ProgressArtifact(artifact_key("experiment", campaign))

    def of(self, experiment_id: str) -> Callable[[Progress], None]:
        """What the work on that experiment is to call."""
        number = self._ids.index(experiment_id)

        def report(progress: Progress) -> None:
            fraction = (number + progress.done / progress.total) / len(self._ids)
            self._artifact.update(fraction, f"{experiment_id}: {progress.text}")

        return report

    def done(self) -> None:
        self._artifact.update(1.0, "done", force=True)
