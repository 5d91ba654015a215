"""The sandbox's one error."""

from __future__ import annotations

from codec.errors import EvocodecError


class SandboxError(EvocodecError):
    """A layer cannot be put up. The message begins with its name and ends with the remedy."""
