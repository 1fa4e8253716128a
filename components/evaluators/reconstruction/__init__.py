"""ReconstructionEvaluator: held-out images against their reconstructions."""
