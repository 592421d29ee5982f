"""How fast the engine is, beside transformers, OpenVINO and llama.cpp on the same cores in the same run.

    make bench-env                                     # once: the peers
    python bench/serve.py --model ~/.tutee/models/smollm2-135m-instruct
    python bench/serve.py --rows one many --quick      # some rows, tiny sizes: does it run?

Everybody gets `--threads` threads and the same work, turn about; the best of `--repeats` counts. Prompts are random, so
that no cache finds anything, and all tokens are made (end tokens are ignored). A missing peer is said, not guessed.
The last line is one JSON object. Run it on a quiet machine: two programs on the same cores slow each other far more
than by half.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from bench.serve_rows import ROWS, Bench
from tutee.model.pretrained import load_pretrained
from tutee.settings import load_settings

PEERS = ("llama.cpp", "openvino", "transformers")


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    model = load_pretrained(options.model, options.dtype)
    bench = Bench(options.model, model, options.threads, options.repeats, options.quick, frozenset(options.peers))
    rows = {}
    try:
        for name in options.rows:
            print(f"{name} …", flush=True)
            begun = time.perf_counter()
            rows[name] = ROWS[name](bench)
            print(f"  {rows[name]}  ({time.perf_counter() - begun:.0f} s)", flush=True)
    finally:
        bench.close()
    facts = {
        "bench": "serve",
        "model": model.name,
        "dtype": options.dtype,
        "threads": options.threads,
        "torch": torch.__version__,
        "quick": options.quick,
    }
    print(json.dumps(facts | {"rows": rows, "missing": bench.said}))


def parse() -> argparse.Namespace:
    settings = load_settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=settings.home / "models" / settings.model)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=PEERS)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="of everybody")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: the numbers mean nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
