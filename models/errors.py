"""Errors that name the model parameter that a user can fix."""

from __future__ import annotations


class ParameterError(ValueError):
    """A value that no model can have.

    Attributes:
        parameter: name of the parameter, as in `models.build.build_model`; a command line has a flag of that name.
    """

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(parameter, message)  # both: exceptions cross process borders by their arguments
        self.parameter = parameter
        self.message = message

    def __str__(self) -> str:
        return self.message


def first_line(error: object) -> str:
    """Return the first line of an error's text, or the name of its type where it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
