"""Documents into full blocks: cut only where they are longer than a block, placed by best fit.

Nothing here knows about attention; who reads the blocks keeps it inside each piece.
Source of the method: Ding et al. 2024, "Fewer Truncations Improve Language Modeling", arXiv:2404.10830, section 3.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence

from textenv.errors import ConfigError

WINDOW_PIECES = 4096
"""Pieces that are placed together; decides memory and how full blocks become."""

_FULL_ENOUGH = 0.97  # of a block: emptier ones wait for the next window's pieces


def pieces_of(tokens: Sequence[int], block_length: int) -> Iterator[Sequence[int]]:
    """A document's pieces of at most a block each.

    Each piece begins with the last token of the one before, so every token but the document's first is predicted
    exactly once.

    Args:
        tokens: A document.
        block_length: At least 2.

    Raises:
        ConfigError: If a block has fewer than two tokens.
    """
    if block_length < 2:
        raise ConfigError(f"`block_length` must be ≥ 2, got {block_length}")
    start = 0
    while start == 0 or start + 1 < len(tokens):
        yield tokens[start : start + block_length]
        start += block_length - 1


def pack(
    documents: Iterable[Sequence[int]], block_length: int, *, window: int = WINDOW_PIECES
) -> Iterator[list[Sequence[int]]]:
    """Blocks of pieces, each block at most ``block_length`` tokens, in bounded memory.

    A window of pieces is placed at a time, the longest first, each into the fullest block that still has room. Blocks
    that are almost full go out; the pieces of the others wait for the next window.

    Args:
        documents: Token ids; empty documents are left out.
        block_length: Tokens in a block.
        window: Pieces that are placed together.
    """
    waiting: list[Sequence[int]] = []
    for document in documents:
        waiting.extend(piece for piece in pieces_of(document, block_length) if len(piece))
        if len(waiting) >= window:
            blocks = _best_fit(waiting, block_length)
            done = [block for block in blocks if _length(block) >= _FULL_ENOUGH * block_length]
            if not done:  # a window that fills nothing: do not wait for ever
                done = blocks
            yield from done
            finished = {id(block) for block in done}
            waiting = [piece for block in blocks if id(block) not in finished for piece in block]
    yield from _best_fit(waiting, block_length)


def _best_fit(pieces: Sequence[Sequence[int]], block_length: int) -> list[list[Sequence[int]]]:
    blocks: list[list[Sequence[int]]] = []
    room: list[tuple[int, int]] = []  # (tokens left, block), ascending
    for piece in sorted(pieces, key=len, reverse=True):
        place = bisect_left(room, (len(piece), -1))
        if place < len(room):
            left, index = room.pop(place)
        else:
            left, index = block_length, len(blocks)
            blocks.append([])
        blocks[index].append(piece)
        if left > len(piece):
            insort(room, (left - len(piece), index))
    return blocks


def _length(block: Sequence[Sequence[int]]) -> int:
    return sum(len(piece) for piece in block)
