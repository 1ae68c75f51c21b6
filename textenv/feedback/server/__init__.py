"""The server: OpenAI-compatible API, labelling, dashboard, security; one process, one engine per policy."""
