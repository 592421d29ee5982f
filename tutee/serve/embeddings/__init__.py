"""/v1/embeddings: texts as vectors, from the served model or from a model made for it."""
