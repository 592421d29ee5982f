"""The page's own routes, under /api: conversations, answers, feedback, the circle and its versions."""
