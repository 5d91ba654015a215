"""A traditional base layer and a small shipped network that restores it, steered by a few bytes a scene.

Owns the payload. The base layer is an elementary strategy's, the network `codec.networks.enhancement`'s. What is sent
beyond the base layer is in `syntax`, what a decoder makes of it in `restoring`, how an encoder chooses it in `fitting`.

    source --base encoder--> base payload --base decoder--> base pictures --network--> candidates
    base pictures before they were rounded to 8 bits + gains of the block's set · candidates --> decoded pictures

A good base at a good rate is wrong by little more than a grey level, and the network knows a tenth of it: that counts
only because 10-bit pictures, and those of a smaller scale, are rounded after it and not before.

A scene sends about 15 bytes for each set of gains, and a map of blocks that is nearly free where it is uniform.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from codec import strategies
from codec.errors import BadInputError, BitstreamError, EncodeError
from codec.frames import Frames, VideoFormat
from codec.rate_distortion import MOST_DEARER, usual_slope
from codec.strategies.hybrid_semantic.fitting import best_enhancement
from codec.strategies.hybrid_semantic.restoring import apply_enhancement
from codec.strategies.hybrid_semantic.syntax import grid, nothing, read_enhancement, write_enhancement
from codec.strategies.protocol import EncodeSettings

if TYPE_CHECKING:
    from codec.strategies.elementary import ElementaryStrategy

BASES = ("av1", "x265", "x264", "vvc")
DEFAULT_BASE = "av1"
BASE_LENGTH_BYTES = 4
PRICES = tuple(str(number) for number in range(-MOST_DEARER, MOST_DEARER + 1))


class HybridSemantic:
    """The strategy; see the module.

    Options: `base` names the base layer's strategy; `price` is what a bit is worth, in half octaves above or below the
    slope that the base usually has at its rate; `must_pay` is "1", or "0" to keep the base layer with a network that
    does nothing where none pays. All others are the base layer's encoder's.
    """

    name = "hybrid_semantic"
    code = 3

    @property
    def presets(self) -> tuple[str, ...]:
        """Those of every base strategy: which of them fit depends on the option `base`."""
        return tuple(dict.fromkeys(preset for name in BASES for preset in _base(name).presets))

    def encode(self, frames: Frames, video: VideoFormat, settings: EncodeSettings) -> bytes:
        """Raises EncodeError where no network pays for its bytes and one must: the base layer alone is then better."""
        options = dict(settings.options)
        name = options.pop("base", DEFAULT_BASE)
        if name not in BASES:
            raise BadInputError(f"{self.name} has no base {name!r}: choose one of {', '.join(BASES)}")
        must_pay = options.pop("must_pay", "1")
        if must_pay not in ("0", "1"):
            raise BadInputError(f"{self.name}: option must_pay={must_pay} is neither 0 nor 1")
        dearer = options.pop("price", "0")
        if dearer not in PRICES:
            raise BadInputError(f"{self.name}: option price={dearer} is not one of {', '.join(PRICES)}")
        base = _base(name)
        payload = settings.base_payload or base.encode(frames, video, replace(settings, options=options))
        pictures, remainders = base.decode_finely(payload, video, len(frames))
        price = usual_slope(name, base.rate(settings), settings.scale) * 2 ** (int(dearer) / 2)
        stream = best_enhancement(frames, pictures, remainders, video, price, overhead=1 + BASE_LENGTH_BYTES)
        if stream is None and must_pay == "0":
            stream = write_enhancement(nothing((len(frames), *grid(video))))
        if stream is None:
            where = f"{name} at quality {settings.quality:g}"
            raise EncodeError(f"{self.name} does not pay: no network improves {where} by its bytes' worth")
        return bytes([base.code]) + len(payload).to_bytes(BASE_LENGTH_BYTES, "little") + payload + stream

    def decode(self, payload: bytes, video: VideoFormat, frame_count: int) -> Frames:
        """The base layer first: a payload without all its frames ends there."""
        base, start = _base_of(payload), 1 + BASE_LENGTH_BYTES
        end = start + int.from_bytes(payload[1:start], "little")
        if len(payload) < end:
            raise BitstreamError(f"the {self.name} payload ends within its base layer")
        pictures, remainders = base.decode_finely(payload[start:end], video, frame_count)
        enhancement = read_enhancement(payload[end:], video, frame_count)
        return apply_enhancement(enhancement, pictures, remainders, video)


def _base(name: str) -> ElementaryStrategy:
    return cast("ElementaryStrategy", strategies.get(name))


def _base_of(payload: bytes) -> ElementaryStrategy:
    name = strategies.name_of(payload[0]) if payload else "none"
    if name not in BASES:
        raise BitstreamError(f"the hybrid_semantic payload's base layer is {name}, not one of {', '.join(BASES)}")
    return _base(name)


STRATEGY = HybridSemantic()
