"""What stops a training run."""


class TrainingError(RuntimeError):
    """Training that cannot start or go on; the message is one line for the user."""
