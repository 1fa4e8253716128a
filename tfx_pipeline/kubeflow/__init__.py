"""Kubeflow Pipelines: compile the pipeline for it, run a task in one of its pods, submit a run."""
