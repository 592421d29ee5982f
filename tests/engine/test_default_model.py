from __future__ import annotations

from pathlib import Path

import pytest

from tutee.conversation import Message
from tutee.engine.engine import Engine
from tutee.engine.request import SamplingParams
from tutee.model.pretrained import load_pretrained


@pytest.mark.model
def test_the_default_model_answers_and_streams_the_same_text(default_model: Path) -> None:
    model = load_pretrained(default_model, "bfloat16")
    prompt = model.chat_format.render([Message("user", "What is the capital of France?")])
    params = SamplingParams(temperature=0.0, max_tokens=32)
    engine = Engine(model, cache_tokens=2048)
    try:
        request = engine.submit(prompt, params)
        streamed = "".join(chunk.text for chunk in request)
        assert "Paris" in streamed
        assert request.result().finish_reason == "stop"
        assert streamed == request.result().text
        # Again, now from the cache, and in company.
        whole = engine.generate([prompt, prompt[:20], prompt], params)
        assert {whole[0][0].text, whole[2][0].text} == {streamed}
    finally:
        engine.close()
