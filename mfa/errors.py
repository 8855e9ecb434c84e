"""The exception for failures that no built-in exception fits."""


class MFAError(RuntimeError):
    """A call failed for a reason other than a wrong argument or exhausted memory.

    Parameters
    ----------
    message : str
        What happened, in the library's own words.
    code : int
        The status code of ``mfa.h``: 3 device not supported, 4 kernel compilation, 5 execution failed,
        6 unsupported by the backend.

    Attributes
    ----------
    code : int
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message, code)
        self.code = code

    def __str__(self) -> str:
        return str(self.args[0])
