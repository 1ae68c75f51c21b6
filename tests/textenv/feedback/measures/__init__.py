"""Formulas of the dashboard, and its figures."""
