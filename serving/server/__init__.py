"""The embedded model server, with TF Serving's gRPC and REST protocols."""
