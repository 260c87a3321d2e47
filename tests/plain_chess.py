"""King and rook against king on coordinates, square by square: slow, obvious, and independent of the tables."""

from __future__ import annotations

Square = int
SIZE = 5
DIRECTIONS = [(dr, dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1) if (dr, dc) != (0, 0)]


def coordinates(square: Square) -> tuple[int, int]:
    return square // SIZE, square % SIZE


def touching(a: Square, b: Square) -> bool:
    (r1, c1), (r2, c2) = coordinates(a), coordinates(b)
    return a != b and max(abs(r1 - r2), abs(c1 - c2)) == 1


def rook_attacks(rook: Square, target: Square, blocker: Square) -> bool:
    """Whether the rook reaches ``target`` with only ``blocker`` in the way."""
    (r1, c1), (r2, c2), (rb, cb) = coordinates(rook), coordinates(target), coordinates(blocker)
    if rook == target or (r1 != r2 and c1 != c2):
        return False
    if r1 == r2 == rb and min(c1, c2) <= cb <= max(c1, c2) and blocker != rook:
        return False
    return not (c1 == c2 == cb and min(r1, r2) <= rb <= max(r1, r2) and blocker != rook)


def plain_is_legal(rook: Square, king: Square, black: Square) -> bool:
    """White to move: three squares, kings apart, black not in check."""
    return len({rook, king, black}) == 3 and not touching(king, black) and not rook_attacks(rook, black, king)


def plain_escapes(rook: Square, king: Square, black: Square) -> set[Square]:
    return {
        square
        for square in range(SIZE * SIZE)
        if touching(square, black)
        and square != king
        and not touching(square, king)
        and not rook_attacks(rook, square, king)
    }


def plain_replies(rook: Square, king: Square, black: Square) -> set[Square]:
    """The escapes nearest the rook, of those the ones nearest the centre."""

    def key(square: Square) -> tuple[int, int]:
        (r, c), (rr, cr) = coordinates(square), coordinates(rook)
        return (r - rr) ** 2 + (c - cr) ** 2, (r - 2) ** 2 + (c - 2) ** 2

    escapes = plain_escapes(rook, king, black)
    return {square for square in escapes if key(square) == min(map(key, escapes))}


def plain_white_moves(rook: Square, king: Square, black: Square) -> list[tuple[str, tuple[int, int, int] | None]]:
    """Outcome and squares with black to move for every action, king clockwise from north, then the rook."""
    clockwise = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]
    moves = [("K", step, 1) for step in clockwise]
    moves += [("R", step, n) for step in clockwise[::2] for n in range(1, SIZE)]
    return [_move(rook, king, black, *move) for move in moves]


def _move(
    rook: Square, king: Square, black: Square, piece: str, step: tuple[int, int], length: int
) -> tuple[str, tuple[int, int, int] | None]:
    row, column = coordinates(king if piece == "K" else rook)
    for _ in range(length):
        row, column = row + step[0], column + step[1]
        if not (0 <= row < SIZE and 0 <= column < SIZE):
            return "ILLEGAL", None
        here = row * SIZE + column
        if here == black or here == (rook if piece == "K" else king):
            return "ILLEGAL", None
    after = (rook, here, black) if piece == "K" else (here, king, black)
    if touching(after[1], black):
        return "ILLEGAL", None
    return _outcome(*after), after


def _outcome(rook: Square, king: Square, black: Square) -> str:
    escapes = plain_escapes(rook, king, black)
    if not escapes:
        return "MATE" if rook_attacks(rook, black, king) else "STALEMATE"
    return "ROOK_LOST" if rook in escapes else "ONGOING"
