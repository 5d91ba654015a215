"""The one exception family. A message says what is wrong, where, and what to do about it, in one line."""

from __future__ import annotations


class EvocodecError(Exception):
    """Work that could not be done. `exit_code` is what the command line ends with."""

    exit_code = 1


class BadInputError(EvocodecError):
    """What the user gave cannot be used: a missing file, an audio-only file, an unknown strategy."""

    exit_code = 2


class BitstreamError(BadInputError):
    """The bytes are not a well-formed .evc file, or the payload of a scene is damaged."""


class LimitError(BitstreamError):
    """The file claims more than the format allows, and its checksum says that it means it: no damage to step over."""


class EncodeError(EvocodecError):
    """An encoder failed or dropped frames. Never answered by substituting another encoder silently."""


class MeasurementError(EvocodecError):
    """A measuring tool failed. Never answered by a number from another tool."""


class StoreError(EvocodecError):
    """Records cannot be read or written."""

    exit_code = 2
