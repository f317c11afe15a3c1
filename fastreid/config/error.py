"""The error of configs."""

from fastreid.utils.errors import UserError


class ConfigError(UserError, ValueError, KeyError):
    """A config file or command line with a mistake; the message is one sentence.

    It is both a ValueError and a KeyError, because yacs raises either for the same mistakes.
    """

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""
