"""/v1/evals: definitions, runs and their report; evals that the gate asks."""
