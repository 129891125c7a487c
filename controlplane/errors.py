"""What the services refuse. ``controlplane/api/errors.py`` gives each its HTTP status."""

import math

ABOVE_0 = math.ulp(0.0)
"""The lowest value of what has to be above 0."""


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


def check_ranges(lead: str, config: object, **ranges: tuple[float, float]) -> None:
    """Refuse the first setting that lies outside its range, both ends included.

    Args:
        lead: what stands before the settings' names.
        config: has them.
        ranges: the lowest and the highest value of each; inf where any finite number above is good.

    Raises:
        SettingError: Naming it, its value and the range.
    """
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if not low <= value <= high or abs(value) == math.inf:
            path = f"{lead}.{name}" if lead else name
            raise SettingError(path, f"{path} is {value}: give {_told(low, high)}")


def _told(low: float, high: float) -> str:
    if math.isinf(low):
        return "a finite number"
    if math.isinf(high):
        return f"{low:,.12g} or more"
    return (
        f"more than 0, at most {high:,.12g}" if low == ABOVE_0 else f"{low:,.12g} to {high:,.12g}"
    )


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
