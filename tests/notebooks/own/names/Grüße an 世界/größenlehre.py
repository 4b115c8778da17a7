"""Ein Modul, dessen Name kein ASCII ist."""


def verdoppelt(wert: float) -> float:
    return 2 * wert
