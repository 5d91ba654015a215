"""What a language model's answer costs, by the price list in prices.json or by a price that the user gives.

Owns the arithmetic. The list is data with a date: prices change, code does not. What a campaign may spend is
`tasks.design.budget`'s; how many tokens an answer took is the designer's to read.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from codec.errors import BadInputError
from tasks.campaign import ModelPrice

PRICE_LIST = Path(__file__).with_name("prices.json")
MILLION = 1_000_000
# A model's dated snapshot costs what the model costs: claude-haiku-4-5-20251001, gpt-6-sol-2026-09-22.
SNAPSHOT = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2})$")


class Listed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Usage(Listed):
    """The tokens of one request, each counted once: `input_tokens` are those that no cache was asked about."""

    input_tokens: int = Field(0, ge=0)
    output_tokens: int = Field(0, ge=0)
    cache_write_tokens: int = Field(0, ge=0)
    cache_read_tokens: int = Field(0, ge=0)

    @property
    def prompt_tokens(self) -> int:
        return self.input_tokens + self.cache_write_tokens + self.cache_read_tokens


class LongPrice(ModelPrice):
    """What every token of a request costs whose prompt has more than `above_tokens`."""

    above_tokens: int


class ListedPrice(ModelPrice):
    long: LongPrice | None = None


class PriceList(Listed):
    date: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    source: tuple[str, ...]
    note: str
    unit: str
    models: dict[str, ListedPrice]


@cache
def price_list() -> PriceList:
    """Raises pydantic's ValidationError where the file is not a price list."""
    return PriceList.model_validate_json(PRICE_LIST.read_bytes())


def price_of(model: str, override: ModelPrice | None = None) -> ModelPrice:
    """The user's price, else the list's. Raises BadInputError where there is neither: an unknown price has no cap."""
    if override is not None:
        return override
    listed = price_list()
    found = listed.models.get(model) or listed.models.get(SNAPSHOT.sub("", model))
    if found is None:
        raise BadInputError(
            f"no price is known for the model {model!r}: set model_price (USD per million tokens), or choose one of "
            f"the price list of {listed.date}: {', '.join(listed.models)}"
        )
    return found


def usd(model: str, usage: Usage, override: ModelPrice | None = None) -> float:
    """What one request costs in US dollars. Raises BadInputError where the model's price is not known."""
    price = price_of(model, override)
    if isinstance(price, ListedPrice) and price.long is not None and usage.prompt_tokens > price.long.above_tokens:
        price = price.long
    return (
        usage.input_tokens * price.input
        + usage.output_tokens * price.output
        + usage.cache_write_tokens * price.cache_write
        + usage.cache_read_tokens * price.cache_read
    ) / MILLION
