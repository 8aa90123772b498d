"""Numbers of things, as people say them."""


def counted(count: int, one: str) -> str:
    """'1 model', '2 models': one is the word for one of them, whose plural has an s."""
    return f"{count} {one}" if count == 1 else f"{count} {one}s"
