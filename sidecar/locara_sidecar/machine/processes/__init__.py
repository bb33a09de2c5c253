"""What our processes start with and leave behind: environment, priority, scratch folder."""
