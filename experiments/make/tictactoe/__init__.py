"""The embedded tic-tac-toe model."""
