"""Started as ``python -I -S <this file> ...``, where nothing but the standard library can be imported, and what is below."""

import os
import sys

if __name__ == "__main__":
    # Last, so that nothing that is installed beside this package stands in for a module of the standard library.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    if sys.argv[1] == "compress":
        from mlxhub_core.keeper.logfile import compress

        compress()
    else:
        from mlxhub_core.keeper.zygote import zygote

        zygote()
