"""A long text in blocks that end where a sentence does, so that a border hides none."""

from collections.abc import Iterator

_LINE = ("\n",)
_SENTENCE = (". ", "! ", "? ", "。", "！", "？")  # noqa: RUF001 -- the wide marks are meant
_WORD = (" ",)


def blocks(text: str, most: int) -> Iterator[str]:
    """The blocks of a text in their order, each of ``most`` characters or fewer; none of no text.

    Only what has no line, sentence or word for half a block is cut anywhere.
    """
    start = 0
    while len(text) - start > most:
        end = start + last_end(text[start : start + most])
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def last_end(text: str) -> int:
    """Where to cut a text that goes on: after the last line of its later half.

    Where no line ends there it is after the last sentence, or word, or all of it.
    """
    late = len(text) // 2
    for marks in (_LINE, _SENTENCE, _WORD):
        ends = [at + len(mark) for mark in marks if (at := text.rfind(mark, late)) >= 0]
        if ends:
            return max(ends)
    return len(text)
