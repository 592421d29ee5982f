"""The worker: a process of its own that takes queued jobs out of the store and trains, as politely as it can.

`run.py` is the process and the life of a job, `report.py` what it tells the store while it works, `api_job.py` the
fine-tuning jobs of the API; an improve job is `tutee/improve.py`. The server meets it in the job table only.
"""

from tutee.worker.run import run_worker

__all__ = ["run_worker"]
