"""Train an agent to steer: ``python -m experiments.train --name first``."""

import sys

from agents.runs.config import from_flags
from agents.runs.training import main

if __name__ == "__main__":
    try:
        print(main(from_flags()))
    except KeyboardInterrupt as stopped:
        sys.exit(f"\n{stopped}")
