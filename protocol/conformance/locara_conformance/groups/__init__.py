"""The checks, group by group, in the order in which they run."""

# ruff: noqa: I001  the order of the imports is the order of the checks
from locara_conformance.groups import framing as framing
from locara_conformance.groups import jsonrpc as jsonrpc
from locara_conformance.groups import schema as schema
from locara_conformance.groups import lifecycle as lifecycle
from locara_conformance.groups import channels as channels
from locara_conformance.groups import generate as generate
from locara_conformance.groups import edit as edit
from locara_conformance.groups import handed as handed
from locara_conformance.groups import pictures as pictures
from locara_conformance.groups import references as references
from locara_conformance.groups import jobs as jobs
from locara_conformance.groups import cancel as cancel
from locara_conformance.groups import capabilities as capabilities
from locara_conformance.groups import models as models
from locara_conformance.groups import store as store
from locara_conformance.groups import errors as errors
from locara_conformance.groups import ending as ending
from locara_conformance.groups import stdio as stdio
from locara_conformance.groups import telling as telling
from locara_conformance.groups import latency as latency
