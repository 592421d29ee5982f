"""Training: `train("dpo", model=…, data=…, folder=…)` is the whole of it; `METHODS` says what there is."""

from tutee.train.methods import METHODS, train
from tutee.train.task import Trained

__all__ = ["METHODS", "Trained", "train"]
