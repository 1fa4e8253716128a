"""Evaluators: TFX components that measure the models through their signatures alone."""
