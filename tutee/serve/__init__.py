"""HTTP: the OpenAI routes and the native ones. Knows the engine and the store; knows nothing of training code."""
