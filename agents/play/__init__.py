"""A steered model to play with: texts, tic-tac-toe and environments by hand; and the local page that shows them."""
