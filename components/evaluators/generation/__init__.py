"""GenerationEvaluator: sampled images against real ones."""
