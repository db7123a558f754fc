"""One training run, to be started alone or by ``accelerate launch``: ``launched.py FOLDER SETTINGS_JSON``."""

import json
import sys
from pathlib import Path

import torch
from training_kit import settings_of, small_model, some_rows

from palimpsest.training.trainer import train

if __name__ == "__main__":
    folder, changes = Path(sys.argv[1]), json.loads(sys.argv[2])
    stop_at = changes.pop("stop_at", None)
    torch.set_num_threads(1)
    if stop_at is not None:
        from training_kit import Listener

        try:
            train(small_model(), None, some_rows(), settings_of(**changes), folder, Listener(stop_at))
        except KeyboardInterrupt:
            sys.exit(0)
    train(small_model(), None, some_rows(), settings_of(**changes), folder)
