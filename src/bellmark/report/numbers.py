"""Numbers as people read them, in pictures and in the terminal."""


def number(value: float) -> str:
    """Two to four significant places, never −0, scientific only where it must be."""
    size = abs(value)
    if size < 5e-13:
        return "0"
    if size >= 1e5 or size < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")
    if size >= 1000:
        return f"{value:.0f}".replace("-", "−")
    places = 1 if size >= 99.95 else 2 if size >= 0.095 else 3
    return f"{value:.{places}f}".replace("-", "−")
