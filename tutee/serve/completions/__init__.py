"""/v1/completions: bare text goes on."""
