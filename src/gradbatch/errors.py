"""What can go wrong, one class per cause that a user can act on.

::

    GradbatchError
    ├── InvalidInputError      (ValueError)       an argument or a file's content cannot be used
    ├── MissingDataError       (FileNotFoundError) a data file is not where it was looked for
    ├── OutputError            (OSError)          a result cannot be written where it was asked for
    ├── UnsupportedLayerError  (ValueError)       per-sample gradients of a layer are not available
    ├── MeasurementError       (RuntimeError)     a measurement was begun, used or ended in the wrong order
    └── NonFiniteError         (ArithmeticError)  training produced nan or inf again and again

Every message says what was got, what is needed and what to do.
"""

__all__ = [
    "GradbatchError",
    "InvalidInputError",
    "MeasurementError",
    "MissingDataError",
    "NonFiniteError",
    "OutputError",
    "UnsupportedLayerError",
]


class GradbatchError(Exception):
    """The root of everything this library raises on purpose."""


class InvalidInputError(GradbatchError, ValueError):
    """An argument, a setting or a file's content cannot be used."""


class MissingDataError(GradbatchError, FileNotFoundError):
    """A data file is not where it was looked for."""


class OutputError(GradbatchError, OSError):
    """A result cannot be written where it was asked for."""


class UnsupportedLayerError(GradbatchError, ValueError):
    """Per-sample gradients of a layer are undefined or not available in closed form."""


class MeasurementError(GradbatchError, RuntimeError):
    """A measurement was begun, used or ended in the wrong order."""


class NonFiniteError(GradbatchError, ArithmeticError):
    """Training produced nan or inf so often that going on would only waste time."""
