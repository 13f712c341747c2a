"""What can go wrong in learning. Each message says what to do about it."""


class ModelError(ValueError):
    """A network, its weights or its training cannot be what was asked for."""


class CheckpointError(ModelError):
    """A file of weights that is missing, damaged or of another network."""


class TrainingError(ModelError):
    """A training that cannot start, or whose result would be no model."""
