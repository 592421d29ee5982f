"""/v1/fine_tuning/jobs: rows in the job table, which a worker takes."""
