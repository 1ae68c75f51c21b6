"""A random order of n things that takes no memory, whatever n is."""

from __future__ import annotations

from textenv.errors import ConfigError

_MASK = 2**64 - 1
_ROUNDS = 4


class Permutation:
    """A pseudo-random permutation of ``0 … size - 1``, computed entry by entry.

    A Feistel network on the smallest even number of bits that holds ``size``; what falls outside is permuted again
    until it falls inside (cycle walking), so every entry comes exactly once.

    Args:
        size: Number of things, at least 1.
        key: Decides the order; the same numbers give the same one.

    Raises:
        ConfigError: If the size is below 1.

    Source: Black & Rogaway 2002, "Ciphers with Arbitrary Finite Domains", section 4 (cycle walking) and 5.
    """

    __slots__ = ("_bits", "_keys", "size")

    def __init__(self, size: int, key: tuple[int, ...]) -> None:
        if size < 1:
            raise ConfigError(f"a permutation needs at least one entry, got {size}")
        self.size = size
        self._bits = max(1, ((size - 1).bit_length() + 1) // 2)
        state = 0x9E3779B97F4A7C15
        for part in key:
            state = _mix(state ^ (part & _MASK))
        self._keys = [_mix(state + round_) for round_ in range(_ROUNDS)]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        """The entry at a position.

        Raises:
            IndexError: If the position is outside.
        """
        if not 0 <= index < self.size:
            raise IndexError(index)
        value = self._once(index)
        while value >= self.size:
            value = self._once(value)
        return value

    def _once(self, value: int) -> int:
        low_mask = (1 << self._bits) - 1
        high, low = value >> self._bits, value & low_mask
        for key in self._keys:
            high, low = low, high ^ (_mix(low ^ key) & low_mask)
        return (high << self._bits) | low


def _mix(value: int) -> int:
    """The finaliser of splitmix64 (Steele et al. 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
