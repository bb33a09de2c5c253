"""Long runs by hand: each prints a report, and shows beside every zero the planted fault that is not zero."""
