"""What can be wrong with an inference run."""


class InferError(ValueError):
    """A run cannot be done as asked for; says what was expected."""


def in_one_line(error: BaseException) -> str:
    """Give an error in one line, of whatever type it is."""
    text = ' '.join(str(error).split())
    return f'{type(error).__name__}: {text[:400]}'


def in_short(value: object, limit: int = 150) -> str:
    """Give a value as in code, cut off after so many characters."""
    text = repr(value)
    return text if len(text) < limit else f'{text[:limit]} ...'
