"""The models.* methods: those about the cache, and loading and preparing."""
