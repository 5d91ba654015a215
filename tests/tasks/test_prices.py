"""The price list: every model on it can be charged, no other one is charged by guess."""

from __future__ import annotations

from datetime import date

import pytest

from codec.errors import BadInputError
from tasks.campaign import ModelPrice
from tasks.design.prices import Usage, price_list, usd

MILLION = 1_000_000


def test_each_kind_of_token_has_its_own_price() -> None:
    usage = Usage(
        input_tokens=MILLION, output_tokens=MILLION, cache_write_tokens=MILLION, cache_read_tokens=10 * MILLION
    )
    assert usd("claude-opus-5-5", usage) == pytest.approx(4 + 20 + 5 + 10 * 0.2)
    assert usd("claude-opus-5-5", Usage()) == 0.0


def test_a_long_prompt_is_dearer_in_every_token_of_its_request() -> None:
    # What is found in the cache is part of the prompt.
    short = Usage(input_tokens=40_000, cache_read_tokens=60_000, output_tokens=1000)
    assert usd("claude-haiku-5-5", short) == pytest.approx((40_000 * 0.1 + 60_000 * 0.01 + 1000 * 0.5) / MILLION)
    long = short.model_copy(update={"input_tokens": 40_001})
    assert usd("claude-haiku-5-5", long) == pytest.approx((40_001 * 0.5 + 60_000 * 0.05 + 1000 * 2.5) / MILLION)


def test_a_dated_snapshot_costs_what_its_model_costs() -> None:
    usage = Usage(input_tokens=MILLION)
    assert usd("claude-haiku-4-5-20251001", usage) == usd("claude-haiku-4-5", usage) == 1.0
    assert usd("gpt-6-sol-2026-09-22", usage) == usd("gpt-6-sol", usage)


@pytest.mark.parametrize("model", ["claude-opus-9", "claude-opus-5-5-turbo", "gpt-6", ""])
def test_an_unknown_model_is_refused_unless_the_user_gives_a_price(model: str) -> None:
    with pytest.raises(BadInputError, match=r"model_price.*claude-opus-5-5.*gpt-6"):
        usd(model, Usage(input_tokens=1))
    price = ModelPrice(input=1, output=2, cache_write=3, cache_read=0.5)
    assert usd(model, Usage(output_tokens=MILLION, cache_read_tokens=MILLION), price) == 2.5


def test_the_users_price_goes_before_the_list() -> None:
    free = ModelPrice(input=0, output=0, cache_write=0, cache_read=0)
    assert usd("claude-opus-5-5", Usage(input_tokens=MILLION, output_tokens=MILLION), free) == 0.0


def test_the_list_is_dated_and_its_prices_are_of_the_right_kind() -> None:
    listed = price_list()
    assert date(2026, 1, 1) <= date.fromisoformat(listed.date)
    assert all(address.startswith("https://") for address in listed.source)
    for model, price in listed.models.items():
        assert 0 < price.cache_read < price.input < price.cache_write < price.output, model
        if price.long is not None:
            assert price.long.above_tokens > 0, model
            assert price.long.input > price.input, model
