"""Areas of shapes."""


def rectangle(width: float, height: float) -> float:
    return width * height
