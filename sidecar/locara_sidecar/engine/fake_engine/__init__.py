"""An engine without a model, for hosts, tests and demonstrations: ``--engine fake``."""
