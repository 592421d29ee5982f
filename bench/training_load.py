"""A training job that never ends, for measuring what answers cost it: supervised LoRA steps on random tokens.

    python bench/training_load.py MODEL THREADS

Prints one JSON line a step: tokens, and seconds. Runs as `tutee worker` does: patient barriers, low priority.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    from tutee.worker.run import be_polite

    be_polite()  # before torch is imported
    import torch

    from tutee.model.pretrained import load_pretrained
    from tutee.train.batch import Example, Group, pack_groups, totals
    from tutee.train.sft import token_mean_loss
    from tutee.train.trainer import Trainer, TrainerConfig

    torch.set_num_threads(int(sys.argv[2]))
    model = load_pretrained(Path(sys.argv[1]))
    trainer = Trainer(model, TrainerConfig())
    ids = torch.randint(0, model.config.vocab_size, (4, 128), generator=torch.Generator().manual_seed(0)).tolist()
    groups = [Group((Example(tuple(row), (0.0,) * 40 + (1.0,) * 88),)) for row in ids]
    batch = pack_groups(groups)
    while True:
        begun = time.perf_counter()
        trainer.forward_backward(batch, token_mean_loss, totals(groups))
        trainer.optim_step(1e-6)
        print(json.dumps({"tokens": 512, "seconds": time.perf_counter() - begun}), flush=True)


if __name__ == "__main__":
    main()
