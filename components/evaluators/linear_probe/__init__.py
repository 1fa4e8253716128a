"""LinearProbeEvaluator: linear-probe evaluation of VIM features."""
