"""Clauses that nothing here tests, each with the reason; testing one of them nevertheless fails the suite."""

UNTRIED = {
    "GEN-7": "needs an installed model whose configuration does not suit one of its schedulers; the fake engine reads "
    "none",
    "GEN-15": "needs a model made to run without guidance under a real engine; the fake engine reports what was asked",
    "GEN-17": "needs a real engine; the fake one accepts any name",
    "EDIT-12": "needs colour profiles, which the harness cannot make; the project's own tests compare",
    "PICK-2": "is the shell's task: no process can see from its pipes who asked",
    "PICK-3": "says what the sidecar cannot know",
    "MOD-7": "needs an engine that keeps an installed model open; the fake one opens none",
    "MOD-8": "is the real engines' check; the fake engine checks nothing (MOD-11)",
    "MOD-9": "is the real engines' check; the fake engine checks nothing (MOD-11)",
    "MOD-10": "is the real engines' check; the fake engine checks nothing (MOD-11)",
    "MOD-12": "needs five long transfers; a folder that takes long to import is too large for a harness, and a "
    "hub is not part of the contract",
    "MOD-25": "needs the mlx engine; no other keeps prepared forms",
    "MOD-29": "needs a hub that breaks off, which is not part of the contract",
    "PREP-1": "needs the mlx engine; no other keeps prepared forms",
    "PREP-2": "needs the mlx engine; no other keeps prepared forms",
    "PREP-3": "needs the mlx engine; no other keeps prepared forms",
    "ERR-1": "lists what may come; no call causes all of it",
    "ERR-16": "needs a hub with a gated model",
    "ERR-18": "needs a full disk",
    "HOST-1": "permits something and requires nothing",
}
