"""A notebook that nbval reruns is as deaf to the user's IPython as one that `fourfold.book.execute` runs."""

import os
import tempfile


def pytest_configure(config):
    """Give the kernels an IPython folder of their own."""
    own = tempfile.TemporaryDirectory(prefix="ipython-")
    config.add_cleanup(own.cleanup)
    os.environ["IPYTHONDIR"] = own.name
    os.environ.pop("PYTHONSTARTUP", None)
