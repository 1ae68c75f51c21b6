"""The feedback store, its formats, server and pages."""
