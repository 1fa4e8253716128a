"""What is measured: functions of arrays, and Beam combiners for what only a whole set has."""
