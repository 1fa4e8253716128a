"""The error that stops a training run."""


class TrainingError(RuntimeError):
    """Training that cannot start or continue; the message is one line for the user."""
