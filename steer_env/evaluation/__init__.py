"""Any policy on exact items: play, controls, counterfactuals, statistics."""
