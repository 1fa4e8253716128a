"""ModelValidator: loads a SavedModel, queries every signature, and blesses it for serving."""
