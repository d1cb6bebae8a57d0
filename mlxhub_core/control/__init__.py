"""The control socket: how a command asks a hub that runs. Plain HTTP and JSON over a Unix socket that is its owner's."""

INVALID_CONFIG = "invalid_config"
"""The code of the error that hub.yaml has mistakes."""
