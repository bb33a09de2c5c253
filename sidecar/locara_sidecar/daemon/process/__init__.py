"""The daemon as a process of its system: its limits, its log, its modules, its host and its end. Nothing of calls."""
