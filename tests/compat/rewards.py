"""Rewards that other processes can find by name."""


def length(prompts: list[str], responses: list[str]) -> list[float]:
    """Number of characters."""
    return [float(len(response)) for response in responses]
