"""Serve a folder of models on free ports of this machine: `python -m serving.server FOLDER SECONDS`."""

import sys

from serving.server.server import Limits, Options, serve
from serving.wire.errors import ServingError

# Code that looks for what a component runs imports this module too.
if __name__ == "__main__":
    try:
        options = Options(port=0, rest_api_port=0, limits=Limits(request_seconds=float(sys.argv[2])))
        serve(sys.argv[1], options)
    except ServingError as error:
        sys.exit(str(error))
