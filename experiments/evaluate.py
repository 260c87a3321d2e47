"""``steer evaluate``."""

import tyro

from agents.compare.evaluate import EvaluateConfig, main

if __name__ == "__main__":
    main(tyro.cli(EvaluateConfig))
