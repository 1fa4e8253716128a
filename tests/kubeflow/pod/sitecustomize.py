"""Puts the launcher's folders below $POD, a folder of the test: only a real pod has /gcs, /minio and /s3."""

import os

from tfx_pipeline.kubeflow import addresses

addresses.MOUNTS = {scheme: f"{os.environ['POD']}{path}" for scheme, path in addresses.MOUNTS.items()}
