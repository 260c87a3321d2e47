"""``python -m agents.harness``: lm-evaluation-harness's own command line, which knows ``--model steer`` too."""

import agents.harness  # noqa: F401  # registers the model


def main() -> None:
    """Run ``lm_eval`` with the command line's arguments."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
