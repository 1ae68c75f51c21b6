"""Estimators on sets of answers: pure functions of numpy arrays, one short file per subject."""
