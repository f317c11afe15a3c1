"""fast-reid's place and name for the table of versions and devices; it is in `fastreid.utils.env`."""

from fastreid.utils.env import collect_env as collect_env_info

__all__ = ["collect_env_info"]
