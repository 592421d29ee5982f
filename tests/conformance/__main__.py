"""`make conformance`: every case of the API checklist, slow ones too: case → what must hold → tests → verdict."""

from __future__ import annotations

import os
import sys

from tests.checklist import Checklist, run
from tests.conformance.conftest import SLOW_TOO

CASES = {
    # Transport and errors
    "T1": "models.list() passes the strict SDK: at least one model, object and created as typed",
    "T2": "models.retrieve() takes ids with colons and slashes",
    "T3": "An unknown model is 404 model_not_found",
    "T4": "No key is 401 invalid_api_key, with x-request-id",
    "T5": "Another scheme than Bearer is 401",
    "T6": "An unknown URL is 404 in OpenAI's error shape",
    "T7": "A wrong method is 405 in the error shape",
    "T8": "A body that is no JSON is 400, neither 422 nor 500",
    "T9": "A body over the limit is 413",
    "T10": "Another content type than JSON is 400",
    "T11": "A full queue is 429 with retry-after; the SDK retries and succeeds",
    "T12": "A swap of versions drops no running stream; what cannot be served is 503 with retry-after",
    # Chat
    "T13": "A minimal chat passes the strict SDK; usage adds up",
    "T14": "An unknown model is 404 with param model",
    "T15": "messages=[] is 400 with param messages",
    "T16": "An unknown role is 400 with param messages[0].role",
    "T17": "A temperature out of range is 400 with param temperature",
    "T18": "top_p out of range is 400",
    "T19": "n out of range is 400; n=3 gives three different choices, all counted",
    "T20": "max_completion_tokens=1 ends with length after one token",
    "T21": "max_tokens and max_completion_tokens together: refused, or a documented precedence",
    "T22": "Five stops are 400; a stop never appears in the text, even across tokens",
    "T23": "The same seed gives the same text and fingerprint",
    "T24": "Greedy alone equals greedy in company",
    "T25": "logit_bias bans a token; values and keys are checked",
    "T26": "logprobs: one entry a token, bytes join to the content; top_logprobs is checked",
    "T27": "Greedy: the chosen log-prob is the largest, finite and at most 0",
    "T28": "A prompt over the context is 400 context_length_exceeded",
    "T29": "Text parts equal a string",
    "T30": "An image for a text model is 400 and names the part",
    "T31": "developer works like system; two system messages are no 500",
    "T32": "null is absent",
    "T33": "Unknown fields are listed in x-ignored-params; refused under strict",
    "T34": "audio and modalities are refused by name",
    # Structured output and tools
    "T35": "A strict json_schema holds for 200 samples at temperature 1",
    "T36": "chat.completions.parse() fills .parsed",
    "T37": "An invalid schema is 400 with param response_format",
    "T38": "json_object parses",
    "T39": "A schema cut by max_tokens ends with length; the SDK says so",
    "T40": "tool_choice=required calls a tool with arguments of its schema",
    "T41": "A named tool is called; an unknown name is 400",
    "T42": "tool_choice=none calls nothing",
    "T43": "parallel_tool_calls=False calls at most one",
    "T44": "A tool result with a wrong tool_call_id is 400",
    "T45": "A function name with a space is 400",
    # Streaming
    "T46": "Raw events: LF framing, no id:, [DONE] last",
    "T47": "The role comes once; the deltas join to the text without streaming",
    "T48": "include_usage: a last chunk without choices; else none",
    "T49": "The .stream() helper reaches its end with n=3 and tools",
    "T50": "Tool deltas: id and name once, indexes 0 and 1",
    "T51": "Emoji and CJK are never split",
    "T52": "stream_options without stream is 400",
    "T53": "An engine error in a stream becomes the SDK's APIError",
    "T54": "A client that goes away frees its slot within a second",
    "T55": "A long prefill with keep-alive does not break the SDK",
    "T56": "reasoning equals reasoning_content, both ways",
    # Completions, embeddings, moderation
    "T57": "echo with logprobs equals the teacher-forced reference",
    "T58": "Three prompts with n=2 give indexes 0 to 5 in order",
    "T59": "Token ids as a prompt equal the text",
    "T60": "lm-evaluation-harness through local-completions equals the in-process score",
    "T61": "Embeddings: base64 equals float; too many and empty inputs are 400",
    "T62": "Moderations: 13 categories; benign is not flagged, known-bad is",
    # Responses and conversations
    "T63": "responses.create() passes the strict SDK",
    "T64": "Stream events in order, numbered without gaps, and get_final_response()",
    "T65": "previous_response_id continues; store=False is not kept",
    "T66": "max_output_tokens: 15 is 400, 16 ends incomplete",
    "T67": "A built-in tool is refused by name",
    "T68": "Deleted is 404; input items come in pages",
    # Files, batches, fine-tuning, evals
    "T69": "A file comes back byte for byte; purpose and expires_after are checked",
    "T70": "A malformed line fails the job and names the line",
    "T71": "Supervised, end to end; the loss falls; strict SDK",
    "T72": "Both DPO dialects are read alike",
    "T73": "Hyperparameters out of range are 400 with their path",
    "T74": "Reinforcement with string_check, end to end; the reward rises",
    "T75": "A missing grader is 400 with its path",
    "T76": "A second cancel is 400 in exactly one request",
    "T77": "Pause, restart the server, resume: the same final step",
    "T78": "Lists page every job once; metadata filters",
    "T79": "Graders of every type equal hand values; bad code is contained",
    "T80": "A seeded rerun gives the same metrics CSV",
    "T81": "An eval counts right; the gate blocks a worse model; rollback restores",
    "T82": "A stored completion's rating reaches the exported DPO file",
    "T83": "A batch of 100 lines with 3 bad ones: 97 and 3",
    "T84": "Webhooks verify with the SDK; a tampered body does not",
    # Robustness
    "T85": "Schemathesis against our OpenAPI document: no 5xx",
    "T86": "An hour of twice the load leaks nothing (`make soak`)",
    "T87": "Two tenants: one's ids are 404 for the other",
    # The scripts of docs/from-openai.md, as they are
    "S1": "supervised.py: the loss falls",
    "S2": "preferences.py: pairs are ranked as people did",
    "S3": "reinforcement.py: valid_reward_mean rises",
    "S4": "evaluation.py: the counts are right",
}

if __name__ == "__main__":
    os.environ[SLOW_TOO] = "1"
    sys.exit(run(Checklist("conformance", CASES), "OpenAI's API", "tests/conformance"))
