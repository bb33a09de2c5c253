"""Clauses that nothing here tests, each with the reason; testing one of them nevertheless fails the suite."""

UNTRIED = {
    "GEN-7": "takes an installed model whose configuration one of its schedulers cannot take; the fake engine asks no "
    "configuration",
    "GEN-15": "takes a model made to run without guidance under a real engine; the fake engine reports what was asked",
    "GEN-17": "takes a real engine; the fake one takes any name",
    "EDIT-12": "takes profiles made by a colour management, which the harness has not; the project's own tests compare",
    "PICK-2": "is the shell's duty: no process can see from its pipes who asked",
    "PICK-3": "says what the sidecar cannot know",
    "MOD-7": "takes an engine that keeps an installed model open; the fake one opens none",
    "MOD-8": "is the real engines' check; the fake engine asks nothing (MOD-11)",
    "MOD-9": "is the real engines' check; the fake engine asks nothing (MOD-11)",
    "MOD-10": "is the real engines' check; the fake engine asks nothing (MOD-11)",
    "MOD-12": "takes five transfers that last; a folder that takes long to import is too large for a harness, and a "
    "hub is not part of the contract",
    "MOD-25": "takes the mlx engine, which alone keeps prepared forms",
    "MOD-29": "takes a hub that breaks off, which is not part of the contract",
    "PREP-1": "takes the mlx engine, which alone keeps prepared forms",
    "PREP-2": "takes the mlx engine, which alone keeps prepared forms",
    "PREP-3": "takes the mlx engine, which alone keeps prepared forms",
    "ERR-1": "lists what may come, and no call brings all of it about",
    "ERR-16": "takes a hub with a gated model",
    "ERR-18": "takes a full disk",
    "HOST-1": "allows something",
}
