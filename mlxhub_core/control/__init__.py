"""The control socket: how a command asks a hub that runs. Plain HTTP and JSON over a Unix socket that is its owner's."""
