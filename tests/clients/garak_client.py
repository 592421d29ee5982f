# /// script
# dependencies = ["garak>=0.13"]
# ///
"""garak's OpenAI-compatible generator, as its probes call it: two answers to one conversation."""

import os

from garak import _config
from garak.attempt import Conversation, Message, Turn
from garak.generators.openai import OpenAICompatible

_config.load_base_config()
os.environ["OPENAICOMPATIBLE_API_KEY"] = "any"
generator = OpenAICompatible(
    name=os.environ["CLIENT_MODEL"],
    config_root={
        "generators": {"openai": {"OpenAICompatible": {"uri": os.environ["OPENAI_BASE_URL"], "max_tokens": 24}}}
    },
)
asked = Conversation([Turn("user", Message("Say hello."))])
outputs = generator.generate(asked, generations_this_call=2)
assert len(outputs) == 2
assert all(output and output.text is not None for output in outputs), outputs
print([output.text[:30] for output in outputs])
