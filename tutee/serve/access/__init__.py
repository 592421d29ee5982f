"""Who calls, in which project, what they may do and how much of it."""
