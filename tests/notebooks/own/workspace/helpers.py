"""A module beside its notebook."""


def mean(values: list[float]) -> float:
    return sum(values) / len(values)
