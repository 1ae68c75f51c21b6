"""The store of what people are asked and what they say."""
