"""Long runs, started by hand. Each prints a report; next to every zero it shows a planted fault whose figure is not
zero."""
