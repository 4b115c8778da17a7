"""A module that fails."""


def risky(where: str) -> None:
    places: dict[str, int] = {}
    places[where]
