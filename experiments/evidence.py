"""``steer evidence``."""

import tyro

from agents.compare.evidence import EvidenceConfig, main

if __name__ == "__main__":
    main(tyro.cli(EvidenceConfig))
