"""models.*: what a host asks of the cache, and loading and preparing."""
