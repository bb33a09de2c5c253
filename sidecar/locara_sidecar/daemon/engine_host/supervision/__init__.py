"""Keeps one engine at work: the table of its life cycle, its deadlines, and what carries out the table's actions."""
