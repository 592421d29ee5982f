"""/tokenize, /detokenize and /tokenizer_info, in the shapes of vLLM's server: evaluation harnesses ask them.

They lie outside `/v1`, as there. Without `model` they speak of `chat`. Only for models of ours: of another server's
tokenizer nothing is known.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from tutee.conversation import merge_system_messages, parse_messages
from tutee.errors import InvalidInput
from tutee.model.tokenizer import Tokenizer
from tutee.serve.access.auth import MEMBER
from tutee.serve.body import Body, Fields
from tutee.serve.live import ALIAS
from tutee.serve.replies import reply
from tutee.serve.served import Served
from tutee.serve.services import ServicesDep

router = APIRouter()

MOST_CHARACTERS = 4_000_000
MOST_TOKENS = 1_000_000


@router.post("/tokenize", openapi_extra=MEMBER)
def tokenize(services: ServicesDep, body: Body) -> Response:
    """Token ids of a bare `prompt`, or of `messages` as the model's chat template writes them."""
    served = services.live.resolve(body.string("model") or ALIAS)
    strings = body.boolean("return_token_strs") or False
    ids = _of_messages(served, body) if body.raw.get("messages") is not None else _of_prompt(served, body)
    body.close()
    tokenizer = served.model.tokenizer
    return reply(
        {
            "count": len(ids),
            "max_model_len": served.context_length,
            "tokens": ids,
            "token_strs": [tokenizer.token_text(id) for id in ids] if strings else None,
        }
    )


def _of_prompt(served: Served, body: Fields) -> list[int]:
    body.need("prompt")
    text = body.string("prompt", most=MOST_CHARACTERS) or ""
    tokenizer = served.model.tokenizer
    whole = body.boolean("add_special_tokens")
    return tokenizer.encode(text, special=True) if whole is False else tokenizer.encode_document(text)


def _of_messages(served: Served, body: Fields) -> list[int]:
    messages = merge_system_messages(parse_messages(body.take("messages")))
    answer_next = body.boolean("add_generation_prompt")
    body.unsupported({"continue_final_message": (False,), "tools": ([],), "chat_template": (), "prompt": ()})
    body.boolean("add_special_tokens")  # the template writes them all
    return served.model.chat_format.render(messages, answer_next is not False)


@router.post("/detokenize", openapi_extra=MEMBER)
def detokenize(services: ServicesDep, body: Body) -> Response:
    """The text of token ids, special tokens written out."""
    served = services.live.resolve(body.string("model") or ALIAS)
    body.need("tokens")
    tokens = body.array("tokens", most=MOST_TOKENS) or []
    body.close()
    vocabulary = served.model.config.vocab_size
    for i, id in enumerate(tokens):
        if isinstance(id, bool) or not isinstance(id, int) or not 0 <= id < vocabulary:
            message = f"'tokens[{i}]' must be a token id, 0 to {vocabulary - 1}."
            raise InvalidInput(message, param=f"tokens[{i}]", code="invalid_value")
    return reply({"prompt": served.model.tokenizer.decode(tokens, skip_special=False)})


@router.get("/tokenizer_info", openapi_extra=MEMBER)
def tokenizer_info(services: ServicesDep, model: str = ALIAS) -> Response:
    """What a client needs to count and to write prompts as the model does."""
    served = services.live.resolve(model)
    tokenizer = served.model.tokenizer
    return reply(
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "vocab_size": tokenizer.vocab_size,
            "model_max_length": served.context_length,
            "bos_token": _named(tokenizer, tokenizer.bos_id),
            "eos_token": _named(tokenizer, tokenizer.eos_id),
            "pad_token": _named(tokenizer, tokenizer.pad_id),
            "additional_special_tokens": sorted(tokenizer.special_tokens, key=tokenizer.special_tokens.__getitem__),
            "chat_template": served.model.chat_format.template,
            "add_bos_token": tokenizer.encode_document("")[:1] == [tokenizer.bos_id],
            "sha256": tokenizer.sha256,
        }
    )


def _named(tokenizer: Tokenizer, id: int | None) -> Any:
    return None if id is None else tokenizer.token_text(id)
