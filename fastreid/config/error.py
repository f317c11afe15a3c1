"""The error of everything that a config cannot be."""

from fastreid.utils.errors import UserError


class ConfigError(UserError, ValueError, KeyError):
    """A configuration file or command line that cannot be honoured; the message is one sentence.

    It is both a ValueError and a KeyError because yacs raises either for the same mistakes.
    """

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""
