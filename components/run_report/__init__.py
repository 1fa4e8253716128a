"""RunReport: the report of a run, as an HTML page, a file of metrics and two image grids."""
