"""/v1/chat/completions, and what asking a chat model takes."""
