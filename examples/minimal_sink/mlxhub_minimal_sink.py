"""The sink `minimal` for mlxhub: a line on standard error for each failure."""

import sys


class MinimalSink:
    """Says which model has failed."""

    def __init__(self, *, greeting: str = "oh no") -> None:
        self.greeting = greeting

    def model_failed(self, ctx, *, exit_code):
        print(f"{self.greeting}: {ctx.name} ended with {exit_code}; see {ctx.log_path}", file=sys.stderr)
