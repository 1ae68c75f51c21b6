"""Texts changed on purpose: what should leave a score alone, and what should not pay."""
