"""Exporting, serving and querying models; each wing imports only those to its right.

cli -> client -> server -> export -> wire; `deploy` holds files for the official model server.
"""
