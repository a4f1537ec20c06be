"""Vectors of texts, as users of the official client ask for them."""

from __future__ import annotations

from typing import Any

import openai
import pytest


def embed(api: Any, **options: Any) -> Any:
    return api.client.embeddings.create(**({"model": "fake-model", "input": "A cat."} | options))


def test_a_text_has_a_vector_of_length_1(api: Any) -> None:
    answer = embed(api)
    (vector,) = [one.embedding for one in answer.data]
    assert sum(x * x for x in vector) == pytest.approx(1)
    assert answer.usage.prompt_tokens == 3


def test_several_texts_have_theirs_in_order(api: Any) -> None:
    texts = ["A cat.", "A dog that barks.", "A cat."]
    data = embed(api, input=texts).data
    assert [one.index for one in data] == [0, 1, 2]
    assert data[0].embedding == data[2].embedding != data[1].embedding


def test_base64_and_numbers_are_the_same_vector(api: Any) -> None:
    # Unless told otherwise, the client asks for base64 and decodes it.
    numbers = embed(api, encoding_format="float").data[0].embedding
    assert embed(api).data[0].embedding == pytest.approx(numbers)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [[1, 2]]}, "input"),
        ({"input": ["x", ""]}, "input[1]"),
        ({"input": ["x"] * 257}, "input"),
        ({"dimensions": 3}, "dimensions"),
        ({"input": "word " * 3000}, None),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(api: Any, options: Any, param: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        embed(api, **options)
    assert caught.value.param == param


def test_without_a_model_there_is_no_vector(serve: Any) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        embed(serve(command=None))
    assert caught.value.code == "model_not_loaded"
