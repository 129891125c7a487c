"""What feedback/ refuses. Each message holds the field, the value and the remedy."""


class FeedbackError(Exception):
    """Base of this folder's errors."""


class InvalidEventError(FeedbackError):
    """An event cannot be taken.

    Attributes:
        field: the field at fault, as the sender wrote it.
    """

    def __init__(self, field: str, message: str) -> None:
        """Name the field beside the message."""
        super().__init__(message)
        self.field = field


class KeyReusedError(FeedbackError):
    """An idempotency key came again with another body."""


class UnknownFeedbackError(FeedbackError):
    """There is no such feedback in this project."""


class MetricError(FeedbackError):
    """A metric's declaration, or a value of it, is wrong."""

    def __init__(self, field: str, message: str) -> None:
        """Name the field beside the message."""
        super().__init__(message)
        self.field = field
