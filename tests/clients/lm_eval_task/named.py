"""Whether an answer names the capital that was asked for."""


def named(doc, results):
    return {"named": float(doc["choices"][doc["answer"]].lower() in results[0].lower())}
