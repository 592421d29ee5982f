"""Is the new version better? Measurements (probes, preference, drift, votes) and the gate that judges them.

`votes.py` and `gate.py` need numpy and the store only, so that the server can judge again after every vote.
"""
