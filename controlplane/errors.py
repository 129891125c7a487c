"""What the services refuse. ``controlplane/api/errors.py`` gives each its HTTP status."""


class ControlPlaneError(Exception):
    """Base of this folder's errors."""


class SettingsError(ControlPlaneError):
    """A setting is missing or malformed."""


class SettingError(ValueError):
    """A policy's setting is out of range.

    Attributes:
        field: the setting's name.
    """

    def __init__(self, field: str, message: str) -> None:
        """Name the setting beside the message."""
        super().__init__(message)
        self.field = field


class NotFoundError(ControlPlaneError):
    """There is no such thing in this project."""


class InvalidError(ControlPlaneError):
    """A request cannot be carried out as it stands.

    Attributes:
        field: the field at fault.
    """

    def __init__(self, field: str, message: str) -> None:
        """Name the field beside the message."""
        super().__init__(message)
        self.field = field


class StaleError(ControlPlaneError):
    """Somebody else has changed it since it was read."""


class ConflictError(ControlPlaneError):
    """Something else stands in the way, or it is over already."""


class GateError(ControlPlaneError):
    """A version may not serve: its verdict says why.

    Attributes:
        checks: the failed checks, each with its numbers.
    """

    def __init__(self, message: str, checks: list[dict[str, object]]) -> None:
        """Keep the failed checks beside the message."""
        super().__init__(message)
        self.checks = checks
