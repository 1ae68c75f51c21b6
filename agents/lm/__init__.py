"""The machinery of cross-entropy training: configuration, batches, the loop, throughput."""
