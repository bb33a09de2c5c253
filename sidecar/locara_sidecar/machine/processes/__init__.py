"""What a process of ours is started with and leaves behind: environment, priority, scratch folder."""
