"""The embedded model server, which speaks TF Serving's two protocols."""
