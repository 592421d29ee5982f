"""/v1/fine_tuning/alpha/graders, and what graders may use on this server."""
