"""What is measured of a model's scores: accuracy, ceiling, ranking, calibration, bias, robustness, agreement."""
