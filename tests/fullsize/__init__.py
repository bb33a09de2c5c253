"""Models in their true sizes with synthetic weights: loading, quantizing and memory, without a download."""
