"""Clients of the two models: over gRPC, over REST, or straight from a run's folder.

from serving.client import open_run, queries

with open_run("runs/digits") as client:
    images, tokens = queries.generate(client, [3] * 4, SamplingParams(seed=1))
"""

from serving.client.client import Client
from serving.client.connect import connect, open_folder, open_run
from serving.client.credentials import Credentials
from serving.export.sampling_params import SamplingParams
from serving.wire.errors import ClientError

__all__ = ["Client", "ClientError", "Credentials", "SamplingParams", "connect", "open_folder", "open_run"]
